"""Signed calls that the market's relayer sends for a fee, so that their account needs no gas."""

import time
from typing import NamedTuple

from marketplace.limits import RELAY_SECONDS
from marketplace.sdk import onchain
from marketplace.sdk._async.transport import AsyncResource
from marketplace.sdk.errors import (
    InputError,
    NotFound,
    RelayFailed,
    TransportError,
    WaitTimeout,
)
from marketplace.sdk.keyring import parse_address
from marketplace.sdk.waiting import PASSING, async_run, async_sleep
from marketplace.wire.base import Money
from marketplace.wire.orders import (
    CALL_ID,
    CallState,
    RelayedCall,
    SignedTopUp,
    SignedWithdrawal,
)
from settlement.orders import TopUp, Withdraw
from settlement.signing import Signer

POLL_SECONDS = 0.5
MINED = (CallState.CONFIRMED, CallState.FINAL)


class CallTerms(NamedTuple):
    """How every signed call ends: its number, its deadline, who sends it, for which fee."""

    salt: int
    deadline: int
    relayer: str
    fee: int


class AsyncCalls(AsyncResource):
    """Calls that the signer's account signs and the market's relayer sends.

    A call has the lowest number that the chain has not seen used. If one was signed whose outcome
    nobody knows, the next has the same number, so at most one of them is ever mined.
    """

    async def fee(self) -> Money:
        """What the market's relayer asks for a call. Raises InputError if it sends none."""
        market = await self._market()
        if market.relay_fee is None:
            fix = "send it yourself, without --relayed"
            raise InputError("this market sends no calls that others signed", fix)
        return market.relay_fee

    async def withdraw(
        self, atoms: int, *, to: str | None = None, signer: Signer | None = None
    ) -> RelayedCall:
        """Move free balance out, to the signer unless told otherwise, less the relayer's fee.

        Returns once that is mined. Raises InputError, NotEnough, RelayFailed, WaitTimeout.
        """
        receiver = parse_address(to) if to is not None else None
        self.require_own()
        fee = await self.fee()
        market = await self._market()
        who = await self._signer(signer)
        await async_run(onchain.check_withdrawal, self._session, market, who.address, atoms)
        if fee.atoms >= atoms:
            raise InputError(f"the relayer's fee, {fee}, is not below what is to be moved")
        terms = await self.terms(who.address)
        call = Withdraw(who.address, receiver or who.address, atoms, *terms)
        return await self.relay(call, who)

    async def get(self, call_id: str) -> RelayedCall:
        """How far a call of the caller has come."""
        return await self._transport.get(RelayedCall, f"/v1/calls/{call_id}")

    async def terms(self, account: str) -> CallTerms:
        """The terms of an account's next call. Raises InputError while one is on its way."""
        fee = await self.fee()
        market = await self._market()
        salt, now = await async_run(onchain.next_call, self._session, market, account)
        call_id = CALL_ID.format(salt)
        try:
            before = await self.get(call_id)
        except NotFound:
            before = None
        if before is not None and before.state is not CallState.FAILED:
            raise InputError(
                f"{call_id} of this account is {before.state}: nothing else is signed meanwhile",
                fix="try again when it is mined, or after its deadline",
            )
        return CallTerms(salt, now + RELAY_SECONDS, market.opener, fee.atoms)

    async def relay(self, call: Withdraw | TopUp, signer: Signer) -> RelayedCall:
        """Sign a call, hand it to the market and wait until it is mined.

        An answer that is lost is asked for again, and the call is not signed again. Raises
        RelayFailed, WaitTimeout, TransportError: the call may then be mined until its deadline.
        """
        signature = await self._sign(call, signer)
        key = "call-" + call.struct_hash().hex()
        body: SignedWithdrawal | SignedTopUp
        if isinstance(call, Withdraw):
            path, body = "withdrawals", SignedWithdrawal(call=call, signature=signature)
        else:
            path, body = "top-ups", SignedTopUp(call=call, signature=signature)
        try:
            made = await self._transport.post(
                RelayedCall, f"/v1/calls/{path}", body, idempotency_key=key
            )
            return await self._mined(made)
        except TransportError as error:
            error.fix = (
                "the market may have the signed call; give the same command again, which signs "
                "nothing while that is on its way, and uses the same number"
            )
            raise

    async def _mined(self, made: RelayedCall) -> RelayedCall:
        until = time.monotonic() + RELAY_SECONDS
        while made.state not in MINED:
            if made.state is CallState.FAILED:
                raise RelayFailed(f"{made.id} did nothing: {made.error}")
            if time.monotonic() > until:
                raise WaitTimeout(f"{made.id} is {made.state} after {RELAY_SECONDS} s")
            await async_sleep(POLL_SECONDS)
            try:
                made = await self.get(made.id)
            except PASSING:
                if time.monotonic() > until:
                    raise
        return made
