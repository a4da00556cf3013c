"""Asks: written out for a provider to sign, checked against its node, put on the book."""

from collections.abc import Mapping
from dataclasses import dataclass

from marketplace.db.store import Store
from marketplace.db.tables import AskRow, NodeRow
from marketplace.domain.drafts import AskingNode, AskState, NodeState, ask_of
from marketplace.errors import (
    AlreadyExists,
    Conflict,
    InvalidOrder,
    InvalidSignature,
    NotFound,
    Problem,
)
from marketplace.limits import NODE_ASKS_MAX as ASKS_MAX
from marketplace.limits import ORDER_SECONDS_MAX
from marketplace.services.accounts import note_salt
from marketplace.services.common import Principal, account_refusal, new_id, to_hex
from marketplace.services.nodes import AWAY
from marketplace.services.orderlog import log_ask, log_ask_closed
from marketplace.services.ports import Clock, EscrowReads, Market
from marketplace.wire.orders import AskDraft, SignedAsk
from settlement.eip712 import ZERO_ADDRESS, from_text32, text32
from settlement.errors import FieldError
from settlement.orders import FLAG_SHARED, Ask


@dataclass(frozen=True, slots=True)
class CheckedAsk:
    """An ask, its signature, and why that does not count, as far as no store is needed."""

    ask: Ask
    signature: bytes
    refusal: InvalidSignature | None


@dataclass(frozen=True, slots=True)
class Asks:
    """Signed offers of nodes."""

    market: Market
    clock: Clock
    reads: EscrowReads

    def prepare(self, node: NodeRow, draft: AskDraft, salt: int) -> Ask:
        """The ask that a provider would sign for a node. Raises InvalidInput with all mistakes."""
        offer = AskingNode(
            provider=node.provider,
            number=node.number,
            tier=node.tier,
            gpu_count=node.gpu_count,
            cpu_milli=node.cpu_milli,
            memory_mib=node.memory_mib,
            storage_mib=node.storage_mib,
            shared=node.shared,
        )
        return ask_of(
            offer,
            {**draft.model_dump(exclude={"node_id"}), "prices": draft.prices},
            opener=self.market.opener,
            fee_bps=self.market.fee_bps,
            now=self.clock() // 1000,
            salt=salt,
        )

    def check(self, signed: SignedAsk) -> CheckedAsk:
        """Check an ask's signature, if need be by the chain, before any transaction is begun.

        Raises ChainError.
        """
        ask, signature = signed.ask, signed.signature
        refusal = account_refusal(ask, signature, ask.provider, self.market, self.reads)
        return CheckedAsk(ask, signature, refusal)

    def create(self, store: Store, caller: Principal, signed: CheckedAsk) -> AskRow:
        """Put a signed ask on the book; where its node is away, once it is back. Nothing is stored
        of one that is refused.

        Raises InvalidOrder, InvalidSignature, AlreadyExists, Conflict.
        """
        ask = signed.ask
        node = store.nodes.by_number(caller.account, ask.node)
        problems = self._problems(ask, caller, node)
        if problems or node is None:
            raise InvalidOrder(problems)
        if signed.refusal is not None:
            raise signed.refusal
        if node.state == NodeState.DRAINING:
            raise Conflict("the node is draining; resume it before it takes asks")
        away = node.state == NodeState.AWAY
        now_ms = self.clock()
        note_salt(store, ask.provider, ask.salt, "/ask/salt", now_ms)
        row = AskRow(
            id=new_id("ask"),
            provider=ask.provider,
            node_id=node.id,
            hash=to_hex(ask.struct_hash()),
            tier=ask.tier_name,
            meter=ask.meter,
            message=ask.to_message(),
            signature=to_hex(signed.signature),
            state=AskState.SUSPENDED if away else AskState.OPEN,
            reason=AWAY if away else None,
            expiry_s=ask.expiry,
            created_ms=now_ms,
        )
        if store.asks.resting_count(node.id) >= ASKS_MAX:
            raise Conflict(f"a node has at most {ASKS_MAX} asks; cancel one first")
        try:
            store.asks.add(row)
        except AlreadyExists as error:
            raise AlreadyExists("this ask is on the book already, or was") from error
        if not away:
            log_ask(store, row, node, now_ms)
        return row

    def _problems(self, ask: Ask, caller: Principal, node: NodeRow | None) -> list[Problem]:
        now_s = self.clock() // 1000
        found = []

        def expect(holds: bool, member: str, detail: str) -> None:
            if not holds:
                found.append(Problem(f"/ask/{member}", detail))

        expect(ask.provider == caller.account, "provider", "must be the account of the API key")
        expect(ask.meter != ZERO_ADDRESS, "meter", "must be a key that signs usage")
        openers = (ZERO_ADDRESS, self.market.opener)
        expect(ask.opener in openers, "opener", f"must be {self.market.opener}, or zero: anyone")
        expect(ask.expiry > now_s, "expiry", "has passed")
        expect(ask.expiry <= now_s + ORDER_SECONDS_MAX, "expiry", "lies more than 400 days ahead")
        expect(ask.starts_at <= ask.expiry, "startsAt", "lies after the expiry")
        expect(ask.max_fee_bps >= self.market.fee_bps, "maxFeeBps", "is below the market's fee")
        expect(ask.min_seconds <= ask.max_seconds, "maxSeconds", "is below minSeconds")
        expect(ask.start_limit_seconds > 0, "startLimitSeconds", "must be above zero")
        try:
            expect(from_text32(ask.unit).isprintable(), "unit", "is not text")
        except FieldError as error:
            expect(False, "unit", error.detail)
        if node is None:
            expect(False, "node", "is no node of yours")
            return found
        expect(ask.tier == text32(node.tier), "tier", f"must be {node.tier}, as the node")
        expect(0 < ask.gpu_milli <= node.gpu_count * 1000, "gpuMilli", "is not what the node has")
        expect(ask.gpu_milli % 1000 == 0, "gpuMilli", "must be whole GPUs")
        expect(ask.cpu_milli <= node.cpu_milli, "cpuMilli", "is more than the node has")
        expect(ask.memory_mib <= node.memory_mib, "memoryMib", "is more than the node has")
        expect(ask.storage_mib <= node.storage_mib, "storageMib", "is more than the node has")
        expect(not ask.flags & ~FLAG_SHARED, "flags", "has unknown bits set")
        expect(not ask.flags & FLAG_SHARED or node.shared, "flags", "the node sells no shares")
        return found

    def page(
        self,
        store: Store,
        equal: Mapping[str, str | None],
        states: tuple[str, ...],
        limit: int,
        before: str | None,
    ) -> list[AskRow]:
        """Asks, newest first, by what their columns must equal if it is given, and by states."""
        rows = store.asks.page(equal, states, limit, before)
        store.nodes.hold(row.node_id for row in rows)
        return rows

    def get(self, store: Store, ask_id: str) -> AskRow:
        """Any ask. Raises NotFound."""
        row = store.asks.get(ask_id)
        if row is None:
            raise NotFound("no such ask")
        return row

    def cancel(self, store: Store, caller: Principal, ask_id: str) -> AskRow:
        """Take an ask off the book: no new fills; leases it opened go on."""
        row = store.asks.get(ask_id, lock=True)
        if row is None or row.provider != caller.account:
            raise NotFound("no such ask")
        if row.state in (AskState.OPEN, AskState.SUSPENDED):
            if row.state == AskState.OPEN:
                log_ask_closed(store, row.id, self.clock())
            row.state, row.reason = AskState.CANCELLED, "cancelled"
        return row
