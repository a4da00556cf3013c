"""What providers offer: nodes with their GPUs, and the asks they sign for them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from marketplace.db.store import Store
from marketplace.db.tables import AskRow, GpuRow, NodeRow, Part
from marketplace.domain.drafts import AskingNode, AskState, NodeState, ask_of
from marketplace.domain.reliability import NEWCOMER_MILLI
from marketplace.domain.tier import CPU_TIER, TierRegistry
from marketplace.errors import (
    AlreadyExists,
    Conflict,
    InvalidInput,
    InvalidOrder,
    InvalidSignature,
    NotFound,
    Problem,
)
from marketplace.limits import NODE_ASKS_MAX as ASKS_MAX
from marketplace.limits import ORDER_SECONDS_MAX
from marketplace.services.accounts import note_salt
from marketplace.services.common import Principal, check_account, new_id, unmet
from marketplace.services.orderlog import log_ask, log_ask_closed, log_node
from marketplace.services.ports import Clock, EscrowReads, Market
from marketplace.wire.base import hex_text
from marketplace.wire.market import NewGpu, NewNode
from marketplace.wire.orders import AskDraft, SignedAsk
from settlement.eip712 import ZERO_ADDRESS, from_text32, text32
from settlement.errors import FieldError
from settlement.orders import FLAG_INTERRUPTIBLE, FLAG_NO_GPU, FLAG_SHARED, Ask

_FLAGS = FLAG_SHARED | FLAG_NO_GPU | FLAG_INTERRUPTIBLE
# What the book knows of a node and a new listing may change.
BOOKED = ("region", "runtime", "cpu_milli", "memory_mib", "storage_mib")
AWAY = "node_away"  # why a node's asks rest: its agent has ended or fallen silent


@dataclass(frozen=True, slots=True)
class Nodes:
    market: Market
    clock: Clock
    tiers: TierRegistry

    def register(self, store: Store, caller: Principal, new: NewNode) -> NodeRow:
        """List a node; the same number with the same GPUs again brings the node up to date.

        A drained node stays drained: its agent may restart, but only its provider resumes it. One
        that was away is back, and with it the asks that rested meanwhile. Raises InvalidInput,
        AlreadyExists: its number or one of its UUIDs is taken.
        """
        self._check(new)
        now_ms = self.clock()
        told = {
            **new.model_dump(exclude={"number", "gpus"}),
            "gpu_count": len(new.gpus),
            "simulated": any(gpu.simulated for gpu in new.gpus),
            "interval_ms": new.interval_ms or self.market.interval_ms,
            "seen_ms": now_ms,
        }
        node = store.nodes.by_number(caller.account, new.number)
        if node is not None and self._same_gpus(store, node, new.gpus):
            before = [getattr(node, name) for name in BOOKED]
            for name, value in told.items():
                setattr(node, name, value)
            self._return(store, node)
            if [getattr(node, name) for name in BOOKED] != before:
                log_node(store, node, now_ms)
            return node
        known = store.nodes.reliability_of(caller.account)
        node = NodeRow(
            id=new_id("node"),
            provider=caller.account,
            number=new.number,
            state=NodeState.ACTIVE,
            created_ms=now_ms,
            reliability_milli=NEWCOMER_MILLI if known is None else known,
            **told,
        )
        self._add(store, node, new.gpus)
        return node

    def _check(self, new: NewNode) -> None:
        wrong_tier = self.tiers.tier_problem(new.tier)
        uuids = {gpu.uuid for gpu in new.gpus}
        problems = unmet(
            "",
            (wrong_tier is None, "tier", wrong_tier or ""),
            (
                bool(new.gpus) is (new.tier != CPU_TIER),
                "gpus",
                f"are none in the tier {CPU_TIER}, and at least one in every other",
            ),
            (bool(new.gpus) or not new.shared, "shared", "needs GPUs to share"),
            (len(uuids) == len(new.gpus), "gpus", "name one GPU twice"),
        )
        if problems:
            raise InvalidInput(problems)

    def _return(self, store: Store, node: NodeRow) -> None:
        """If the node was away, it is back, and its asks that rested meanwhile are on the book."""
        if node.state != NodeState.AWAY:
            return
        node.state = NodeState.ACTIVE
        for ask in _away_asks(store, node):
            ask.state, ask.reason = AskState.OPEN, None
            log_ask(store, ask, node, self.clock())

    def _same_gpus(self, store: Store, node: NodeRow, gpus: tuple[NewGpu, ...]) -> bool:
        def told(listed: Iterable[NewGpu | GpuRow]) -> set[tuple[object, ...]]:
            return {(g.uuid, g.model, g.memory_mib, g.simulated) for g in listed}

        return told(store.gpus.of_nodes([node.id])[node.id]) == told(gpus)

    def _add(self, store: Store, node: NodeRow, gpus: tuple[NewGpu, ...]) -> None:
        problem = Problem("/number", "is another node of yours; set `number` in this one's file")
        store.nodes.add(node, AlreadyExists("the node number is taken", problems=[problem]))
        for position, gpu in enumerate(gpus):
            row = GpuRow(**gpu.model_dump(), node_id=node.id, position=position)
            problem = Problem(f"/gpus/{position}/uuid", "is listed in the market already")
            store.gpus.add(row, AlreadyExists("a GPU is listed once", problems=[problem]))

    def get(self, store: Store, caller: Principal, node_id: str, *, lock: bool = False) -> NodeRow:
        """A node of the caller (any, for an operator). Raises NotFound."""
        node = store.nodes.get(node_id, lock=lock)
        if node is None or (node.provider != caller.account and not caller.is_operator):
            raise NotFound("no such node")
        return node

    def heartbeat(self, store: Store, caller: Principal, node_id: str) -> NodeRow:
        """Note that the node is alive. If it was away, it is back, and so are its asks."""
        node = self._own(store, caller, node_id)
        node.seen_ms = self.clock()
        self._return(store, node)
        return node

    def leave(self, store: Store, caller: Principal, node_id: str) -> NodeRow:
        """Note that the node's agent ends. Its open asks rest until it is heard of again, so nobody
        is matched to a machine that does not answer. Its leases end as it reports them."""
        node = self._own(store, caller, node_id)
        if node.state == NodeState.ACTIVE:
            rest(store, node, self.clock())
        return node

    def drain(self, store: Store, caller: Principal, node_id: str) -> NodeRow:
        """Take no new jobs on the node: its open asks are cancelled, what runs goes on."""
        node = self._own(store, caller, node_id)
        if node.state != NodeState.DRAINING:
            node.state = NodeState.DRAINING
            for ask in _away_asks(store, node):
                ask.state, ask.reason = AskState.CANCELLED, "node_draining"
            for ask in store.asks.of_node(node.id, AskState.OPEN):
                ask.state, ask.reason = AskState.CANCELLED, "node_draining"
                log_ask_closed(store, ask.id, self.clock())
        return node

    def resume(self, store: Store, caller: Principal, node_id: str) -> NodeRow:
        """Let a drained node take jobs again; it needs new asks."""
        node = self._own(store, caller, node_id)
        if node.state == NodeState.DRAINING:
            node.state = NodeState.ACTIVE
        return node

    def _own(self, store: Store, caller: Principal, node_id: str) -> NodeRow:
        node = self.get(store, caller, node_id, lock=True)
        if node.provider != caller.account:
            raise NotFound("no such node")
        return node


def rest(store: Store, node: NodeRow, now_ms: int) -> None:
    """Mark an active node as away and take its open asks off the book until it is back."""
    node.state = NodeState.AWAY
    for ask in store.asks.of_node(node.id, AskState.OPEN):
        ask.state, ask.reason = AskState.SUSPENDED, AWAY
        log_ask_closed(store, ask.id, now_ms)


def _away_asks(store: Store, node: NodeRow) -> list[AskRow]:
    return [ask for ask in store.asks.of_node(node.id, AskState.SUSPENDED) if ask.reason == AWAY]


@dataclass(frozen=True, slots=True)
class CheckedAsk:
    """An ask, its signature, and why the signature does not count, if it does not."""

    ask: Ask
    signature: bytes
    refusal: InvalidSignature | None


@dataclass(frozen=True, slots=True)
class Asks:
    market: Market
    clock: Clock
    reads: EscrowReads

    def prepare(self, node: NodeRow, draft: AskDraft, salt: int) -> Ask:
        """The ask that a provider would sign for a node. Raises InvalidInput with all mistakes."""
        offer = {field.name: getattr(node, field.name) for field in fields(AskingNode)}
        return ask_of(
            AskingNode(**offer),
            {**draft.model_dump(exclude={"node_id"}), "prices": draft.prices},
            opener=self.market.opener,
            fee_bps=self.market.fee_bps,
            now=self.clock() // 1000,
            salt=salt,
        )

    def check(self, signed: SignedAsk) -> CheckedAsk:
        """Check an ask's signature, if need be by the chain, before any transaction is begun.
        Raises ChainError."""
        ask = signed.ask
        refusal = None
        try:
            check_account(ask, signed.signature, ask.provider, self.market, self.reads)
        except InvalidSignature as error:
            refusal = error
        return CheckedAsk(ask, signed.signature, refusal)

    def create(self, store: Store, caller: Principal, signed: CheckedAsk) -> AskRow:
        """Put a signed ask on the book; if its node is away, once it is back. Nothing is stored of
        one that is refused. Raises InvalidOrder, InvalidSignature, AlreadyExists, Conflict."""
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
            hash=hex_text(ask.struct_hash()),
            tier=ask.tier_name,
            meter=ask.meter,
            message=ask.to_message(),
            signature=hex_text(signed.signature),
            state=AskState.SUSPENDED if away else AskState.OPEN,
            reason=AWAY if away else None,
            expiry_s=ask.expiry,
            created_ms=now_ms,
        )
        if store.asks.resting_count(node.id) >= ASKS_MAX:
            raise Conflict(f"a node has at most {ASKS_MAX} asks; cancel one first")
        store.asks.add(row, AlreadyExists("this ask is on the book already, or was"))
        if not away:
            log_ask(store, row, node, now_ms)
        return row

    def _problems(self, ask: Ask, caller: Principal, node: NodeRow | None) -> list[Problem]:
        now_s = self.clock() // 1000
        openers = (ZERO_ADDRESS, self.market.opener)
        try:
            wrong_unit = "" if from_text32(ask.unit).isprintable() else "is not text"
        except FieldError as error:
            wrong_unit = error.detail
        problems = unmet(
            "/ask",
            (ask.provider == caller.account, "provider", "must be the account of the API key"),
            (ask.meter != ZERO_ADDRESS, "meter", "must be a key that signs usage"),
            (ask.opener in openers, "opener", f"must be {self.market.opener}, or zero: anyone"),
            (ask.expiry > now_s, "expiry", "has passed"),
            (ask.expiry <= now_s + ORDER_SECONDS_MAX, "expiry", "lies more than 400 days ahead"),
            (ask.starts_at <= ask.expiry, "startsAt", "lies after the expiry"),
            (ask.max_fee_bps >= self.market.fee_bps, "maxFeeBps", "is below the market's fee"),
            (ask.min_seconds <= ask.max_seconds, "maxSeconds", "is below minSeconds"),
            (ask.start_limit_seconds > 0, "startLimitSeconds", "must be above zero"),
            (not wrong_unit, "unit", wrong_unit),
            (node is not None, "node", "is not a node of yours"),
        )
        if node is None:
            return problems
        no_gpu = bool(ask.flags & FLAG_NO_GPU)
        tier = CPU_TIER if no_gpu else node.tier
        least = 0 if no_gpu else 1000
        interruptible = bool(ask.flags & FLAG_INTERRUPTIBLE)
        return problems + unmet(
            "/ask",
            (
                node.meter in (None, ask.meter),
                "meter",
                f"must be {node.meter}, the key that the node's agent signs usage with",
            ),
            (ask.tier == text32(tier), "tier", f"must be {tier}, as what is sold"),
            (
                least <= ask.gpu_milli <= (0 if no_gpu else node.gpu_count * 1000),
                "gpuMilli",
                "must be 0: no GPU is sold" if no_gpu else "is not what the node has",
            ),
            (not no_gpu or not ask.floor.gpu_hour, "floor/gpuHour", "must be 0: no GPU is sold"),
            (not no_gpu or ask.cpu_milli > 0, "cpuMilli", "must be above 0: no GPU is sold"),
            (interruptible or not ask.notice_seconds, "noticeSeconds", "needs its flag, 4"),
            (ask.gpu_milli % 1000 == 0, "gpuMilli", "must be whole GPUs"),
            (ask.cpu_milli <= node.cpu_milli, "cpuMilli", "is more than the node has"),
            (ask.memory_mib <= node.memory_mib, "memoryMib", "is more than the node has"),
            (ask.storage_mib <= node.storage_mib, "storageMib", "is more than the node has"),
            (not ask.flags & ~_FLAGS, "flags", "has unknown bits set"),
            (not ask.flags & FLAG_SHARED or node.shared, "flags", "the node sells no shares"),
            (not (no_gpu and ask.flags & FLAG_SHARED), "flags", "shares no GPU, since it has none"),
        )

    def page(
        self, store: Store, equal: Mapping[str, str | None], states: tuple[str, ...], part: Part
    ) -> list[AskRow]:
        """Asks, newest first, by what their columns must equal if it is given, and by states."""
        rows = store.asks.page(equal, states, part)
        store.nodes.hold(row.node_id for row in rows)
        return rows

    def get(self, store: Store, ask_id: str) -> AskRow:
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
