"""Nodes: machines that providers list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

from marketplace.api.edge import (
    AUTH,
    OWNED,
    Cursor,
    EdgeDep,
    Limit,
    Provider,
    Reply,
    SoundRoute,
    WritingDep,
    decode_cursor,
    page,
    problems,
)
from marketplace.api.schemas.base import Id
from marketplace.api.schemas.offers import Node, NodeIn, NodePage
from marketplace.db.store import Store
from marketplace.db.tables import NodeRow
from marketplace.services.nodes import NewGpu, NewNode

router = APIRouter(route_class=SoundRoute, prefix="/nodes", tags=["nodes"])


@router.post(
    "",
    status_code=201,
    operation_id="register_node",
    response_model=Node,
    responses=problems(*AUTH, "already_exists", "idempotency_mismatch", "idempotency_in_flight"),
)
def register(edge: EdgeDep, caller: Provider, body: NodeIn, write: WritingDep) -> Any:
    """List a machine. The same number with the same GPUs again brings it up to date."""
    nodes = edge.catalog.nodes
    gpus = tuple(NewGpu(g.uuid, g.model, g.memory_mib, g.simulated) for g in body.gpus)
    new = NewNode(
        number=body.number,
        name=body.name,
        region=body.region,
        tier=body.tier,
        gpus=gpus,
        cpu_milli=body.cpu_milli,
        memory_mib=body.memory_mib,
        storage_mib=body.storage_mib,
        runtime=body.runtime,
        shared=body.shared,
        interval_ms=body.interval_ms,
    )

    def act(store: Store) -> Reply:
        node = nodes.register(store, caller, new)
        return Reply(_show(edge, store, node), 201, {"Location": f"/v1/nodes/{node.id}"})

    return write.run(caller, act)


@router.get("", operation_id="list_nodes", response_model=NodePage, responses=problems(*AUTH))
def list_nodes(edge: EdgeDep, caller: Provider, limit: Limit = 50, cursor: Cursor = None) -> Any:
    """The caller's nodes, newest first."""
    nodes = edge.catalog.nodes
    with edge.database.read() as store:
        rows = store.nodes.page(caller.account, limit + 1, decode_cursor(cursor))
        gpus = store.gpus.of_nodes([row.id for row in rows])
        return page(rows, limit, lambda row: row.id, lambda row: nodes.to_json(row, gpus[row.id]))


@router.get("/{node_id}", operation_id="get_node", response_model=Node, responses=problems(*OWNED))
def get(edge: EdgeDep, caller: Provider, node_id: Id) -> Any:
    """One node of the caller."""
    with edge.database.read() as store:
        return _show(edge, store, edge.catalog.nodes.get(store, caller, node_id))


@router.post(
    "/{node_id}/heartbeat",
    operation_id="heartbeat_node",
    response_model=Node,
    responses=problems(*OWNED),
)
def heartbeat(edge: EdgeDep, caller: Provider, node_id: Id, write: WritingDep) -> Any:
    """Say that the node is alive."""
    return _changed(edge, caller, node_id, write, edge.catalog.nodes.heartbeat)


@router.post(
    "/{node_id}/leave", operation_id="leave_node", response_model=Node, responses=problems(*OWNED)
)
def leave(edge: EdgeDep, caller: Provider, node_id: Id, write: WritingDep) -> Any:
    """Say that the node's agent ends: its asks rest until the node is registered again."""
    return _changed(edge, caller, node_id, write, edge.catalog.nodes.leave)


@router.post(
    "/{node_id}/drain", operation_id="drain_node", response_model=Node, responses=problems(*OWNED)
)
def drain(edge: EdgeDep, caller: Provider, node_id: Id, write: WritingDep) -> Any:
    """Take no new jobs on the node until it is resumed; what runs goes on."""
    return _changed(edge, caller, node_id, write, edge.catalog.nodes.drain)


@router.post(
    "/{node_id}/resume", operation_id="resume_node", response_model=Node, responses=problems(*OWNED)
)
def resume(edge: EdgeDep, caller: Provider, node_id: Id, write: WritingDep) -> Any:
    """Let a drained node take jobs again, from new asks."""
    return _changed(edge, caller, node_id, write, edge.catalog.nodes.resume)


def _changed(
    edge: EdgeDep,
    caller: Provider,
    node_id: Id,
    write: WritingDep,
    change: Callable[[Store, Provider, Id], NodeRow],
) -> Any:
    """The caller's node after a change of its state."""

    def act(store: Store) -> Reply:
        return Reply(_show(edge, store, change(store, caller, node_id)))

    return write.run(caller, act)


def _show(edge: EdgeDep, store: Store, node: NodeRow) -> dict[str, Any]:
    return edge.catalog.nodes.to_json(node, store.gpus.of_nodes([node.id])[node.id])
