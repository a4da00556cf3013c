"""Nodes: the machines that providers list, with their GPUs by UUID."""

from __future__ import annotations

from dataclasses import dataclass, replace

from marketplace.domain.reliability import NEWCOMER_MILLI
from marketplace.domain.tier import TierRegistry
from marketplace.errors import AlreadyExists, InvalidInput, NotFound, Problem
from marketplace.services.common import Principal, new_id
from marketplace.services.orderlog import log_ask, log_ask_closed, log_node
from marketplace.services.ports import Clock, Duplicate, Market, Store
from marketplace.services.records import Gpu, Node
from marketplace.wire.nodes import NewGpu, NewNode

AWAY = "node_away"  # why asks of a node rest whose agent has ended or fell silent


@dataclass(frozen=True, slots=True)
class Nodes:
    """Listing, seeing and draining nodes."""

    market: Market
    clock: Clock
    tiers: TierRegistry

    def register(self, store: Store, caller: Principal, new: NewNode) -> Node:
        """List a node; the same number with the same GPUs again brings the node up to date.

        A drained node stays drained: a restart of its agent is no word of its provider. One that
        was away is back, and with it the asks that rested meanwhile.

        Raises InvalidInput, AlreadyExists: its number or one of its UUIDs is taken.
        """
        problems = []
        if self.tiers.get(new.tier) is None:
            close = self.tiers.suggest(new.tier)
            hint = f"; did you mean {close}?" if close else ""
            problems.append(Problem("/tier", f"{new.tier!r} is no tier of this market{hint}"))
        if len({gpu.uuid for gpu in new.gpus}) != len(new.gpus):
            problems.append(Problem("/gpus", "name one GPU twice"))
        if problems:
            raise InvalidInput(problems)
        now_ms = self.clock()
        node = Node(
            id=new_id("node"),
            provider=caller.account,
            number=new.number,
            name=new.name,
            region=new.region,
            tier=new.tier,
            gpu_count=len(new.gpus),
            simulated=any(gpu.simulated for gpu in new.gpus),
            cpu_milli=new.cpu_milli,
            memory_mib=new.memory_mib,
            storage_mib=new.storage_mib,
            runtime=new.runtime,
            shared=new.shared,
            interval_ms=new.interval_ms or self.market.interval_ms,
            state="active",
            seen_ms=now_ms,
            created_ms=now_ms,
        )
        old = store.nodes.one(provider=caller.account, number=new.number)
        if old is not None and self._same_gpus(store, old, new.gpus):
            node = self._renewed(store, old, node)
        else:
            other = store.nodes.one(provider=caller.account)
            known = other.reliability_milli if other is not None else NEWCOMER_MILLI
            node = replace(node, reliability_milli=known)
            self._add(store, node, new.gpus)
        return node

    def _renewed(self, store: Store, old: Node, new: Node) -> Node:
        node = replace(
            new,
            id=old.id,
            created_ms=old.created_ms,
            state="active" if old.state == "away" else old.state,
            reliability_milli=old.reliability_milli,
        )
        store.nodes.put(node)
        if old.state == "away":
            self._reopen(store, node)
        if (node.region, node.runtime) != (old.region, old.runtime):
            log_node(store, node, self.clock())
        return node

    def _reopen(self, store: Store, node: Node) -> None:
        """Put the asks back on the book that rested while the node was away."""
        for ask in store.asks.find(node_id=node.id, state="suspended", reason=AWAY):
            ask = replace(ask, state="open", reason=None)
            store.asks.put(ask)
            log_ask(store, ask, node, self.clock())

    def _same_gpus(self, store: Store, node: Node, gpus: tuple[NewGpu, ...]) -> bool:
        listed = {
            (g.uuid, g.model, g.memory_mib, g.simulated) for g in store.gpus.find(node_id=node.id)
        }
        return listed == {(g.uuid, g.model, g.memory_mib, g.simulated) for g in gpus}

    def _add(self, store: Store, node: Node, gpus: tuple[NewGpu, ...]) -> None:
        try:
            store.nodes.add(node)
        except Duplicate as error:
            problem = Problem("/number", "is another node of yours")
            raise AlreadyExists("the node number is taken", problems=[problem]) from error
        for position, gpu in enumerate(gpus):
            try:
                store.gpus.add(
                    Gpu(gpu.uuid, node.id, position, gpu.model, gpu.memory_mib, gpu.simulated)
                )
            except Duplicate as error:
                problem = Problem(f"/gpus/{position}/uuid", "is listed in the market already")
                raise AlreadyExists("a GPU is listed once", problems=[problem]) from error

    def get(self, store: Store, caller: Principal, node_id: str, *, lock: bool = False) -> Node:
        """A node of the caller (any, for an operator). Raises NotFound."""
        node = store.nodes.get(node_id, lock=lock)
        if node is None or (node.provider != caller.account and not caller.is_operator):
            raise NotFound("no such node")
        return node

    def mine(self, store: Store, caller: Principal, limit: int, before: str | None) -> list[Node]:
        """The caller's nodes, newest first."""
        return store.nodes.find(provider=caller.account, newest=True, before=before, limit=limit)

    def heartbeat(self, store: Store, caller: Principal, node_id: str) -> Node:
        """Note that the node is alive; one that was away is back, and with it its asks."""
        old = self._own(store, caller, node_id)
        state = "active" if old.state == "away" else old.state
        node = replace(old, state=state, seen_ms=self.clock())
        store.nodes.put(node)
        if old.state == "away":
            self._reopen(store, node)
        return node

    def leave(self, store: Store, caller: Principal, node_id: str) -> Node:
        """The node's agent ends: its open asks rest until it is heard of again.

        So nobody is matched to a machine that answers no more. Its leases end as it reports them.
        """
        node = self._own(store, caller, node_id)
        return rest(store, node, self.clock()) if node.state == "active" else node

    def drain(self, store: Store, caller: Principal, node_id: str) -> Node:
        """Take no new jobs on the node: its open asks are cancelled, what runs goes on."""
        node = self._own(store, caller, node_id)
        if node.state != "draining":
            node = replace(node, state="draining")
            store.nodes.put(node)
            for ask in store.asks.find(node_id=node.id, state="suspended", reason=AWAY):
                store.asks.put(replace(ask, state="cancelled", reason="node_draining"))
            for ask in store.asks.find(node_id=node.id, state="open"):
                store.asks.put(replace(ask, state="cancelled", reason="node_draining"))
                log_ask_closed(store, ask.id, self.clock())
        return node

    def resume(self, store: Store, caller: Principal, node_id: str) -> Node:
        """Let a drained node take jobs again; it needs new asks."""
        node = self._own(store, caller, node_id)
        if node.state == "draining":
            node = replace(node, state="active")
            store.nodes.put(node)
        return node

    def _own(self, store: Store, caller: Principal, node_id: str) -> Node:
        node = self.get(store, caller, node_id, lock=True)
        if node.provider != caller.account:
            raise NotFound("no such node")
        return node


def rest(store: Store, node: Node, now_ms: int) -> Node:
    """Mark an active node as away and take its open asks off the book until it is back."""
    node = replace(node, state="away")
    store.nodes.put(node)
    for ask in store.asks.find(node_id=node.id, state="open"):
        store.asks.put(replace(ask, state="suspended", reason=AWAY))
        log_ask_closed(store, ask.id, now_ms)
    return node
