"""Nodes: the machines that providers list, with their GPUs by UUID."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from marketplace.db.store import Store
from marketplace.db.tables import AskRow, GpuRow, NodeRow
from marketplace.domain.asking import AskState, NodeState
from marketplace.domain.reliability import NEWCOMER_MILLI
from marketplace.domain.tier import TierRegistry
from marketplace.errors import AlreadyExists, InvalidInput, NotFound, Problem
from marketplace.services.common import Principal, new_id
from marketplace.services.orderlog import log_ask, log_ask_closed, log_node
from marketplace.services.ports import Clock, Market
from marketplace.wire.nodes import NewGpu, NewNode

AWAY = "node_away"  # why asks of a node rest whose agent has ended or fell silent


@dataclass(frozen=True, slots=True)
class Nodes:
    """Listing, seeing and draining nodes."""

    market: Market
    clock: Clock
    tiers: TierRegistry

    def register(self, store: Store, caller: Principal, new: NewNode) -> NodeRow:
        """List a node; the same number with the same GPUs again brings the node up to date.

        A drained node stays drained: a restart of its agent is no word of its provider. One that
        was away is back, and with it the asks that rested meanwhile.

        Raises InvalidInput, AlreadyExists: its number or one of its UUIDs is taken.
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
            self._renew(store, node, told)
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
        problems = []
        if self.tiers.get(new.tier) is None:
            close = self.tiers.suggest(new.tier)
            hint = f"; did you mean {close}?" if close else ""
            problems.append(Problem("/tier", f"{new.tier!r} is no tier of this market{hint}"))
        if len({gpu.uuid for gpu in new.gpus}) != len(new.gpus):
            problems.append(Problem("/gpus", "name one GPU twice"))
        if problems:
            raise InvalidInput(problems)

    def _renew(self, store: Store, node: NodeRow, told: dict[str, Any]) -> None:
        before = (node.region, node.runtime)
        for name, value in told.items():
            setattr(node, name, value)
        self._return(store, node)
        if (node.region, node.runtime) != before:
            log_node(store, node, self.clock())

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
        try:
            store.nodes.add(node)
        except AlreadyExists as error:
            problem = Problem("/number", "is another node of yours")
            raise AlreadyExists("the node number is taken", problems=[problem]) from error
        for position, gpu in enumerate(gpus):
            try:
                store.gpus.add(GpuRow(**gpu.model_dump(), node_id=node.id, position=position))
            except AlreadyExists as error:
                problem = Problem(f"/gpus/{position}/uuid", "is listed in the market already")
                raise AlreadyExists("a GPU is listed once", problems=[problem]) from error

    def get(self, store: Store, caller: Principal, node_id: str, *, lock: bool = False) -> NodeRow:
        """A node of the caller (any, for an operator). Raises NotFound."""
        node = store.nodes.get(node_id, lock=lock)
        if node is None or (node.provider != caller.account and not caller.is_operator):
            raise NotFound("no such node")
        return node

    def heartbeat(self, store: Store, caller: Principal, node_id: str) -> NodeRow:
        """Note that the node is alive; one that was away is back, and with it its asks."""
        node = self._own(store, caller, node_id)
        node.seen_ms = self.clock()
        self._return(store, node)
        return node

    def leave(self, store: Store, caller: Principal, node_id: str) -> NodeRow:
        """The node's agent ends: its open asks rest until it is heard of again.

        So nobody is matched to a machine that answers no more. Its leases end as it reports them.
        """
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
