"""What is offered and ordered: nodes, asks, top-ups, and orders of either side made void."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from marketplace.domain.drafts import AskingNode, ask_of, top_up_lock
from marketplace.domain.life import LeaseState
from marketplace.domain.reader import seconds_of
from marketplace.limits import SALT_AHEAD_MAX, SALT_MAX
from marketplace.sdk import onchain
from marketplace.sdk._async.calls import AsyncCalls
from marketplace.sdk._async.transport import AsyncResource
from marketplace.sdk.errors import Forbidden, InputError, VerificationError, input_errors
from marketplace.sdk.onchain import Moved, signed_by, top_up_call
from marketplace.sdk.waiting import async_run
from marketplace.wire.base import Money
from marketplace.wire.jobs import Job, TopUpPlan
from marketplace.wire.leases import Lease
from marketplace.wire.market import Account, MarketConfig, NewNode, Node
from marketplace.wire.orders import (
    TOP_UP_GAS,
    AskInfo,
    BidInfo,
    CancelledOrders,
    RelayedCall,
    SignedAsk,
    SignedCancel,
    Transaction,
)
from settlement.orders import Ask, Cancel, Numbered, TopUp
from settlement.signing import Signer


class AsyncNodes(AsyncResource):
    """Machines of a provider."""

    async def register(
        self, node: NewNode | Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Node:
        """List a machine, or bring its entry up to date. Raises InputError."""
        with input_errors("the node"):
            body = node if isinstance(node, NewNode) else NewNode.model_validate(dict(node))
        return await self._transport.post(Node, "/v1/nodes", body, idempotency_key=idempotency_key)

    async def get(self, node_id: str) -> Node:
        """One node."""
        return await self._transport.get(Node, f"/v1/nodes/{node_id}")

    def list(self, limit: int | None = None) -> AsyncIterator[Node]:
        """Every node of the caller."""
        return self._transport.pages(Node, "/v1/nodes", limit=limit)

    async def heartbeat(self, node_id: str) -> Node:
        """Say that the node is alive."""
        return await self._tell(node_id, "heartbeat")

    async def leave(self, node_id: str) -> Node:
        """Say that the node's agent ends: its asks rest until it is back."""
        return await self._tell(node_id, "leave")

    async def drain(self, node_id: str) -> Node:
        """Take no new jobs on this node until it is resumed; what runs goes on."""
        return await self._tell(node_id, "drain")

    async def interrupt(self, node_id: str) -> Node:
        """Drain this node and take it back: its interruptible leases end after their notice."""
        return await self._tell(node_id, "interrupt")

    async def resume(self, node_id: str) -> Node:
        """Let a drained node take jobs again, from new asks."""
        return await self._tell(node_id, "resume")

    async def _tell(self, node_id: str, what: str) -> Node:
        path = f"/v1/nodes/{node_id}/{what}"
        return await self._transport.post(Node, path, repeatable=True)


class AsyncAsks(AsyncResource):
    """Signed asks on the book."""

    async def prepare(self, node_id: str, terms: Mapping[str, Any]) -> Ask:
        """The ask that offers a node on these terms, to look at before `offer` signs it.

        Its sizes are the node's as the market lists it, the rest is `terms`: `meter`, `prices`,
        `unit`, `min_duration`, `max_duration`, `start_limit`, `expires_in`, `max_fee_bps`,
        `opener`, `no_gpu`, `interruptible`, `notice` as in `POST /v1/asks/prepare`.

        Raises InputError.
        """
        return await self._prepare(node_id, terms, None)

    async def _prepare(self, node_id: str, terms: Mapping[str, Any], provider: str | None) -> Ask:
        market = await self._market()
        node = await self._transport.get(Node, f"/v1/nodes/{node_id}")
        if provider not in (None, node.provider):
            raise InputError(f"{node_id} is a node of {node.provider}, not of {provider}")
        account = await self._transport.get(Account, f"/v1/accounts/{node.provider}")
        offer = AskingNode(
            provider=node.provider,
            number=node.number,
            tier=node.tier,
            gpu_count=len(node.gpus),
            cpu_milli=node.cpu_milli,
            memory_mib=node.memory_mib,
            storage_mib=node.storage_mib,
            shared=node.shared,
        )
        with input_errors("the terms"):
            return ask_of(
                offer,
                terms,
                opener=market.opener,
                fee_bps=market.fee_bps,
                now=int(time.time()),
                salt=self._session.take_salt(account.address, account.next_salt),
            )

    async def create(
        self, ask: Ask, signature: bytes, *, idempotency_key: str | None = None
    ) -> AskInfo:
        """Put a signed ask on the book."""
        body = SignedAsk(ask=ask, signature=signature)
        key = idempotency_key
        return await self._transport.post(AskInfo, "/v1/asks", body, idempotency_key=key)

    async def offer(
        self,
        node_id: str,
        terms: Mapping[str, Any],
        *,
        signer: Signer | None = None,
        idempotency_key: str | None = None,
    ) -> AskInfo:
        """Write an ask as `prepare` does, sign it and put it on the book. Raises InputError."""
        who = await self._signer(signer)
        ask = await self._prepare(node_id, terms, who.address)
        return await self.place(ask, signer=who, idempotency_key=idempotency_key)

    async def place(
        self, ask: Ask, *, signer: Signer | None = None, idempotency_key: str | None = None
    ) -> AskInfo:
        """Sign an ask that `prepare` wrote, and put it on the book. Raises InputError."""
        who = await self._signer(signer)
        if who.address != ask.provider:
            raise InputError(f"the ask is one of {ask.provider}, not of {who.address}")
        signature = await self._sign(ask, who)
        key = idempotency_key or "ask-" + ask.struct_hash().hex()
        return await self.create(ask, signature, idempotency_key=key)

    async def get(self, ask_id: str) -> AskInfo:
        """One ask."""
        return await self._transport.get(AskInfo, f"/v1/asks/{ask_id}")

    async def own(self, ask_id: str, account: str) -> AskInfo:
        """One ask that the account has signed. Raises VerificationError."""
        await self._market()
        found = await self.get(ask_id)
        asked = self._session.domain(), account, self._session.purse_reads()
        if await async_run(signed_by, found, *asked) is None:
            raise VerificationError(f"{account} did not sign {ask_id}")
        return found

    def list(
        self,
        *,
        provider: str | None = None,
        node_id: str | None = None,
        tier: str | None = None,
        states: Sequence[str] = (),
        limit: int | None = None,
    ) -> AsyncIterator[AskInfo]:
        """Asks on the book, all of them or by provider, node, tier or state."""
        one = {"provider": provider, "node_id": node_id, "tier": tier}
        state = ",".join(states) or None
        return self._transport.pages(AskInfo, "/v1/asks", **one, state=state, limit=limit)

    async def cancel(self, ask_id: str) -> AskInfo:
        """Take an ask off the book; leases it opened go on."""
        return await self._transport.delete(AskInfo, f"/v1/asks/{ask_id}")


class AsyncTopUps(AsyncResource):
    """Jobs that are to run longer."""

    async def prepare(self, job_id: str, duration: str) -> TopUpPlan:
        """What letting a job run longer, such as `30m`, locks at most, and the transaction
        that does it, written from the orders that this account signed.

        Raises InputError, VerificationError.
        """
        buyer = await async_run(self._session.address)
        plan, _, _ = await self._prepare(job_id, duration, buyer)
        return plan

    async def create(self, job_id: str, duration: str, *, signer: Signer | None = None) -> Moved:
        """Let a job run longer, such as `30m`, paid from the buyer's account.

        Raises InputError, VerificationError.
        """
        market = await self._market()
        who = onchain.transacting(await self._signer(signer))
        found, _, _ = await self._prepare(job_id, duration, self._session.account_of(who))
        return await async_run(onchain.send, self._session, market, who, found.transaction.data)

    async def relay(
        self, job_id: str, duration: str, *, signer: Signer | None = None
    ) -> RelayedCall:
        """As `create`, sent by the market's relayer for a fee on top. For a purse its owner signs.

        Raises as `create`, RelayFailed, WaitTimeout.
        """
        calls = AsyncCalls(self._transport, self._session)
        await calls.fee()
        who = await self._signer(signer)
        account = self._session.account_of(who)
        _, lease, seconds = await self._prepare(job_id, duration, account)
        terms = await calls.terms(account)
        names = (account, lease.provider, lease.lease_no, seconds)
        return await calls.relay(TopUp(*names, *terms), who)

    async def _prepare(
        self, job_id: str, duration: str, buyer: str
    ) -> tuple[TopUpPlan, Lease, int]:
        """The plan, the lease and the seconds to add."""
        try:
            seconds = seconds_of(duration)
        except ValueError as error:
            raise InputError(str(error), pointer="/duration") from None
        market = await self._market()
        domain = self._session.domain()
        job = await self._transport.get(Job, f"/v1/jobs/{job_id}")
        if job.lease_id is None or job.cost is None:
            raise InputError(f"{job_id} ({job.state}) has no lease to top up")
        lease = await self._transport.get(Lease, f"/v1/leases/{job.lease_id}")
        ask = await self._transport.get(AskInfo, f"/v1/asks/{lease.ask_id}")
        bid = await self._transport.get(BidInfo, f"/v1/bids/{lease.bid_id}")
        reads = self._session.purse_reads()
        data = await async_run(top_up_call, lease, ask, bid, domain, buyer, seconds, reads)
        if lease.terms is None or lease.state != LeaseState.ACTIVE:
            raise InputError(f"{lease.id} is {lease.state}; only an active lease is topped up")
        # What earlier leases cost is in `budget_left`, and so is what this one has cost so far.
        left = job.cost.budget_left.atoms + job.cost.accrued.atoms - job.cost.locked.atoms
        with input_errors():
            lock = top_up_lock(
                seconds,
                ask.ask,
                rate=lease.terms.rate,
                paid_seconds=lease.terms.paid_seconds,
                left=max(0, left),
                decimals=market.decimals,
                currency=market.currency,
            )
        escrow = domain.verifying_contract
        plan = TopUpPlan(
            lease_id=lease.id,
            transaction=Transaction(call="top_up", to=escrow, data=data, gas=TOP_UP_GAS),
            lock=Money.of(lock, market.currency, market.decimals),
        )
        return plan, lease, seconds


class AsyncOrders(AsyncResource):
    """Orders of either side, made void."""

    async def cancel(
        self, order_id: str | None, *, signer: Signer | None = None
    ) -> CancelledOrders:
        """Make an ask, a bid or a job's bid void; None: every order so far. Leases go on.

        Raises VerificationError for an order that this account did not sign.
        """
        market = await self._market()
        who = await self._signer(signer)
        account = self._session.account_of(who)
        if order_id is None:
            salt: int | None = await self._newest(account, market)
        else:
            salt = await self._salt(await self._order(order_id), account)
        if salt is None:
            raise VerificationError(f"{account} did not sign {order_id}")
        cancel = Cancel(account, Numbered.ORDERS, salt, order_id is None)
        body = SignedCancel(cancel=cancel, signature=await self._sign(cancel, who))
        key = "cancel-" + cancel.struct_hash().hex()
        return await self._transport.post(
            CancelledOrders, "/v1/orders/cancel", body, idempotency_key=key
        )

    async def _order(self, order_id: str) -> AskInfo | BidInfo:
        if order_id.startswith("ask_"):
            return await self._transport.get(AskInfo, f"/v1/asks/{order_id}")
        bid_id = order_id
        if not order_id.startswith("bid_"):
            bid_id = (await self._transport.get(Job, f"/v1/jobs/{order_id}")).bid_id
        return await self._transport.get(BidInfo, f"/v1/bids/{bid_id}")

    async def _salt(self, order: AskInfo | BidInfo, account: str) -> int | None:
        """The salt of an order that the account itself has signed, else None."""
        reads = self._session.purse_reads()
        signed = await async_run(signed_by, order, self._session.domain(), account, reads)
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
        if newest > SALT_MAX:
            why = f"an order of yours has the salt {newest}, above {SALT_MAX}"
            raise VerificationError(why, fix="cancel that order by its id")
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
