"""Purses: accounts that an operator may spend from, straight on the chain."""

from collections.abc import Callable
from typing import TypeVar

from marketplace.sdk import onchain, onpurse
from marketplace.sdk._async.transport import AsyncResource
from marketplace.sdk.errors import InputError
from marketplace.sdk.keyring import parse_address
from marketplace.sdk.onchain import Moved
from marketplace.sdk.onpurse import MadePurse, PurseInfo
from marketplace.sdk.waiting import async_run
from settlement.signing import Signer

T = TypeVar("T")
PURSE_SECONDS_MAX = 10 * 365 * 86_400


class AsyncPurses(AsyncResource):
    """The signer's purses. They work with the server down, as the wallet does.

    The owner makes, funds, sweeps and expires a purse; its operator signs bids that it pays for.
    """

    async def create(
        self, operator: str, seconds: int, atoms: int = 0, *, signer: Signer | None = None
    ) -> MadePurse:
        """Make a purse from which `operator` may spend for so long, with atoms of the signer's
        free balance in it. Raises InputError, NotEnough.
        """
        who_spends = parse_address(operator)
        if not 0 < seconds <= PURSE_SECONDS_MAX or atoms < 0:
            raise InputError(
                "a purse must expire in 1 s to 10 years, and its amount must be 0 or more"
            )
        return await self._send(onpurse.create, signer, who_spends, seconds, atoms)

    async def fund(self, purse: str, atoms: int, *, signer: Signer | None = None) -> Moved:
        """Put atoms of the owner's free balance into a purse. Raises InputError, NotEnough."""
        return await self._send(onpurse.fund, signer, parse_address(purse), atoms)

    async def sweep(self, purse: str, atoms: int, *, signer: Signer | None = None) -> Moved:
        """Take free atoms out of a purse, to its owner's balance. Raises InputError, NotEnough."""
        return await self._send(onpurse.sweep, signer, parse_address(purse), atoms)

    async def expire(self, purse: str, seconds: int = 0, *, signer: Signer | None = None) -> Moved:
        """Bring a purse's expiry forward, to so many seconds from now. Raises InputError."""
        return await self._send(onpurse.expire, signer, parse_address(purse), seconds)

    async def get(self, purse: str) -> PurseInfo:
        """A purse's terms and what is free in it. Raises InputError if there is none."""
        address = parse_address(purse)
        return await async_run(onpurse.look, self._session, await self._known_market(), address)

    async def list(
        self, account: str | None = None, *, from_block: int = 0
    ) -> tuple[PurseInfo, ...]:
        """The purses that an account (the signer's unless given) owns or operates.

        Blocks before `from_block` are not searched.
        """
        who = parse_address(account) if account else await async_run(self._session.own_address)
        market = await self._known_market()
        return await async_run(onpurse.find, self._session, market, who, from_block)

    async def _send(self, call: Callable[..., T], signer: Signer | None, *terms: str | int) -> T:
        market = await self._known_market()
        who = onchain.transacting(await self._signer(signer))
        return await async_run(call, self._session, market, who, *terms)
