"""Nodes: machines that providers list."""

from collections.abc import Callable

from fastapi import APIRouter, Response

from marketplace.api.edge import (
    Cursor,
    EdgeDep,
    Id,
    Limit,
    Provider,
    Reply,
    SoundRoute,
    WritingDep,
    decode_cursor,
    page,
)
from marketplace.api.problems import AUTH, ONCE, OWNED, documented
from marketplace.db.store import Store
from marketplace.db.tables import NodeRow
from marketplace.services.views import node_view
from marketplace.wire.base import Page
from marketplace.wire.market import NewNode, Node

router = APIRouter(route_class=SoundRoute, prefix="/nodes", tags=["nodes"])


@router.post(
    "",
    status_code=201,
    operation_id="register_node",
    response_model=Node,
    responses=documented(*AUTH, *ONCE, "already_exists"),
)
def register(edge: EdgeDep, caller: Provider, body: NewNode, write: WritingDep) -> Response:
    """List a machine. The same number with the same GPUs again brings it up to date."""

    def act(store: Store) -> Reply:
        node = edge.catalog.nodes.register(store, caller, body)
        return Reply(_shown(store, node), 201, {"Location": f"/v1/nodes/{node.id}"})

    return write.run(caller, act)


@router.get("", operation_id="list_nodes", responses=documented(*AUTH))
def list_nodes(
    edge: EdgeDep, caller: Provider, limit: Limit = 50, cursor: Cursor = None
) -> Page[Node]:
    """The caller's nodes, newest first."""
    with edge.database.read() as store:
        rows = store.nodes.page(caller.account, limit + 1, decode_cursor(cursor))
        gpus = store.gpus.of_nodes([row.id for row in rows])
        return page(Page[Node], rows, limit, lambda row: node_view(row, gpus[row.id]))


@router.get("/{node_id}", operation_id="get_node", responses=documented(*OWNED))
def get(edge: EdgeDep, caller: Provider, node_id: Id) -> Node:
    """One node of the caller."""
    with edge.database.read() as store:
        return _shown(store, edge.catalog.nodes.get(store, caller, node_id))


@router.post(
    "/{node_id}/heartbeat",
    operation_id="heartbeat_node",
    response_model=Node,
    responses=documented(*OWNED, *ONCE),
)
def heartbeat(edge: EdgeDep, caller: Provider, node_id: Id, write: WritingDep) -> Response:
    """Say that the node is alive."""
    return _changed(edge, caller, node_id, write, edge.catalog.nodes.heartbeat)


@router.post(
    "/{node_id}/leave",
    operation_id="leave_node",
    response_model=Node,
    responses=documented(*OWNED, *ONCE),
)
def leave(edge: EdgeDep, caller: Provider, node_id: Id, write: WritingDep) -> Response:
    """Say that the node's agent ends: its asks rest until the node is registered again."""
    return _changed(edge, caller, node_id, write, edge.catalog.nodes.leave)


@router.post(
    "/{node_id}/drain",
    operation_id="drain_node",
    response_model=Node,
    responses=documented(*OWNED, *ONCE),
)
def drain(edge: EdgeDep, caller: Provider, node_id: Id, write: WritingDep) -> Response:
    """Take no new jobs on the node until it is resumed; what runs goes on."""
    return _changed(edge, caller, node_id, write, edge.catalog.nodes.drain)


@router.post(
    "/{node_id}/resume",
    operation_id="resume_node",
    response_model=Node,
    responses=documented(*OWNED, *ONCE),
)
def resume(edge: EdgeDep, caller: Provider, node_id: Id, write: WritingDep) -> Response:
    """Let a drained node take jobs again, from new asks."""
    return _changed(edge, caller, node_id, write, edge.catalog.nodes.resume)


def _changed(
    edge: EdgeDep,
    caller: Provider,
    node_id: Id,
    write: WritingDep,
    change: Callable[[Store, Provider, Id], NodeRow],
) -> Response:
    """The caller's node after a change of its state."""

    def act(store: Store) -> Reply:
        return Reply(_shown(store, change(store, caller, node_id)))

    return write.run(caller, act)


def _shown(store: Store, node: NodeRow) -> Node:
    return node_view(node, store.gpus.of_nodes([node.id])[node.id])
