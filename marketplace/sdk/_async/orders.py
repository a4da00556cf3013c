"""Top-ups and cancels: written by this client, and sent or signed by the caller's own account."""

from __future__ import annotations

from collections.abc import AsyncIterator

from marketplace.domain.bidding import top_up_lock
from marketplace.domain.reader import seconds_of
from marketplace.limits import SALT_AHEAD_MAX
from marketplace.sdk import onchain
from marketplace.sdk._async.base import AsyncResource
from marketplace.sdk.checks import own_orders, signed_by
from marketplace.sdk.errors import Forbidden, InputError, VerificationError
from marketplace.sdk.reading import input_errors
from marketplace.sdk.values import Moved
from marketplace.sdk.waiting import async_run
from marketplace.wire.base import Money
from marketplace.wire.jobs import Job, TopUp
from marketplace.wire.leases import Lease
from marketplace.wire.market import Account, MarketConfig
from marketplace.wire.orders import AskInfo, BidInfo, Cancelled, SignedCancel, Transaction
from settlement.orders import Cancel
from settlement.signing import Signer

TOP_UP_GAS = 300_000  # more than a top-up takes


class AsyncTopUps(AsyncResource):
    """Jobs that are to run longer."""

    async def prepare(self, job_id: str, duration: str) -> TopUp:
        """What running a job longer, such as `30m`, locks at most, and the transaction that does
        it, written from the orders that this account signed. Raises InputError, VerificationError.
        """
        return await self._prepare(job_id, duration, await async_run(self._session.address))

    async def create(self, job_id: str, duration: str, *, signer: Signer | None = None) -> Moved:
        """Let a job run longer, such as `30m`, from the buyer's account.

        Raises InputError, VerificationError.
        """
        market = await self._market()
        who = onchain.transacting(await self._signer(signer))
        found = await self._prepare(job_id, duration, who.address)
        return await async_run(onchain.send, self._session, market, who, found.transaction.data)

    async def _prepare(self, job_id: str, duration: str, buyer: str) -> TopUp:
        from settlement.chain.calls import EscrowCalls

        try:
            seconds = seconds_of(duration)
        except ValueError as error:
            raise InputError(str(error), pointer="/duration") from None
        market = await self._market()
        job = await self._transport.get(Job, f"/v1/jobs/{job_id}")
        if job.lease_id is None or job.cost is None:
            raise InputError(f"{job_id} ({job.state}) has no lease to top up")
        lease = await self._transport.get(Lease, f"/v1/leases/{job.lease_id}")
        ask = await self._transport.get(AskInfo, f"/v1/asks/{lease.ask_id}")
        bid = await self._transport.get(BidInfo, f"/v1/bids/{lease.bid_id}")
        orders, own_bid = own_orders(lease, ask, bid, self._session.domain(), buyer)
        if lease.terms is None or lease.state != "active":
            raise InputError(f"{lease.id} is {lease.state}; only an active lease is topped up")
        # What earlier leases cost is in `budget_left`, and so is what this one has cost so far.
        left = job.cost.budget_left.atoms + job.cost.accrued.atoms - job.cost.locked.atoms
        with input_errors():
            lock = top_up_lock(
                seconds,
                orders.ask,
                rate=lease.terms.rate,
                funded_seconds=lease.terms.funded_seconds,
                left=max(0, left),
                decimals=market.decimals,
                currency=market.currency,
            )
        calls = EscrowCalls(self._session.domain().verifying_contract)
        data = calls.top_up(orders, own_bid, seconds)
        return TopUp(
            lease_id=lease.id,
            transaction=Transaction(call="top_up", to=calls.address, data=data, gas=TOP_UP_GAS),
            lock=Money.of(lock, market.currency, market.decimals),
        )


class AsyncOrders(AsyncResource):
    """Orders of either side, made void."""

    async def cancel(self, order_id: str | None, *, signer: Signer | None = None) -> Cancelled:
        """Make an ask, a bid or a job's bid void; None: every order so far. Leases go on.

        Raises VerificationError for an order that this account did not sign.
        """
        market = await self._market()
        who = await self._signer(signer)
        if order_id is None:
            salt: int | None = await self._newest(who.address, market)
        else:
            salt = await self._salt(await self._order(order_id), who.address)
        if salt is None:
            raise VerificationError(f"{who.address} did not sign {order_id}")
        cancel = Cancel(who.address, salt, order_id is None)
        body = SignedCancel(cancel=cancel, signature=await self._sign(cancel, who))
        key = "cancel-" + cancel.struct_hash().hex()
        return await self._transport.post(Cancelled, "/v1/orders/cancel", body, idempotency_key=key)

    async def _order(self, order_id: str) -> AskInfo | BidInfo:
        if order_id.startswith("ask_"):
            return await self._transport.get(AskInfo, f"/v1/asks/{order_id}")
        bid_id = order_id
        if not order_id.startswith("bid_"):
            bid_id = (await self._transport.get(Job, f"/v1/jobs/{order_id}")).bid_id
        return await self._transport.get(BidInfo, f"/v1/bids/{bid_id}")

    async def _salt(self, order: AskInfo | BidInfo, account: str) -> int | None:
        """The salt of an order that the account itself has signed, else None."""
        signed = await async_run(signed_by, order, self._session.domain(), account)
        return None if signed is None else signed.salt

    async def _newest(self, account: str, market: MarketConfig) -> int:
        """The greatest salt that the account has signed an order with.

        Never a greater one: that would use up salts of orders that are still to come, in the end
        all of them. Raises InputError if there is none, VerificationError far ahead of the chain.
        """
        found = await self._transport.get(Account, f"/v1/accounts/{account}")
        newest: int | None = None
        async for order in self._own(account):
            salt = await self._salt(order, account)
            if salt is not None and (newest is None or salt > newest):
                newest = salt
            if newest is not None and newest + 1 >= found.next_salt:
                break  # there is none above it, as far as the market knows
        if newest is None:
            raise InputError("the account has no orders that could be cancelled")
        if self._session.rpc_url:
            first = await async_run(onchain.orders_from, self._session, market, account)
            if newest > first + SALT_AHEAD_MAX:
                raise VerificationError(f"an order of yours is far ahead of the chain: {newest}")
        return newest

    async def _own(self, account: str) -> AsyncIterator[AskInfo | BidInfo]:
        """The account's asks and bids, newest first."""
        async for ask in self._transport.pages(AskInfo, "/v1/asks", provider=account):
            yield ask
        try:
            async for bid in self._transport.pages(BidInfo, "/v1/bids"):
                yield bid
        except Forbidden:  # a key for asks only sees no bids
            return
