"""Nodes: machines that providers list."""

from marketplace.api.edge import EdgeDep, Id, Paged, Provider, Routes
from marketplace.api.problems import AUTH, OWNED
from marketplace.db.store import Store
from marketplace.db.tables import NodeRow
from marketplace.services.views import node_view
from marketplace.wire.base import Page
from marketplace.wire.market import NewNode, Node

routes = Routes()


@routes.writes("POST /nodes", "register_node", *AUTH, "already_exists", status=201)
def register(edge: EdgeDep, store: Store, caller: Provider, body: NewNode) -> Node:
    """List a machine. The same number with the same GPUs again brings it up to date."""
    return _shown(store, edge.catalog.nodes.register(store, caller, body))


@routes.reads("GET /nodes", "list_nodes", *AUTH)
def list_nodes(edge: EdgeDep, store: Store, caller: Provider, paging: Paged) -> Page[Node]:
    """The caller's nodes, newest first."""
    rows = store.nodes.page(caller.account, paging.wanted)
    gpus = store.gpus.of_nodes([row.id for row in rows])
    return paging.page(Page[Node], rows, lambda row: node_view(row, gpus[row.id]))


@routes.reads("GET /nodes/{node_id}", "get_node", *OWNED)
def get(edge: EdgeDep, store: Store, caller: Provider, node_id: Id) -> Node:
    """One node of the caller."""
    return _shown(store, edge.catalog.nodes.get(store, caller, node_id))


@routes.writes("POST /nodes/{node_id}/heartbeat", "heartbeat_node", *OWNED)
def heartbeat(edge: EdgeDep, store: Store, caller: Provider, node_id: Id) -> Node:
    """Say that the node is alive."""
    return _shown(store, edge.catalog.nodes.heartbeat(store, caller, node_id))


@routes.writes("POST /nodes/{node_id}/leave", "leave_node", *OWNED)
def leave(edge: EdgeDep, store: Store, caller: Provider, node_id: Id) -> Node:
    """Say that the node's agent ends: its asks rest until it is back."""
    return _shown(store, edge.catalog.nodes.leave(store, caller, node_id))


@routes.writes("POST /nodes/{node_id}/drain", "drain_node", *OWNED)
def drain(edge: EdgeDep, store: Store, caller: Provider, node_id: Id) -> Node:
    """Take no new jobs on the node until it is resumed; what runs goes on."""
    return _shown(store, edge.catalog.nodes.drain(store, caller, node_id))


@routes.writes("POST /nodes/{node_id}/interrupt", "interrupt_node", *OWNED)
def interrupt(edge: EdgeDep, store: Store, caller: Provider, node_id: Id) -> Node:
    """Drain the node, and take it back: its interruptible leases get their notice."""
    node = edge.catalog.nodes.drain(store, caller, node_id)
    edge.catalog.ends.give_notice(store, node)
    return _shown(store, node)


@routes.writes("POST /nodes/{node_id}/resume", "resume_node", *OWNED)
def resume(edge: EdgeDep, store: Store, caller: Provider, node_id: Id) -> Node:
    """Let a drained node take jobs again, from new asks."""
    return _shown(store, edge.catalog.nodes.resume(store, caller, node_id))


def _shown(store: Store, node: NodeRow) -> Node:
    return node_view(node, store.gpus.of_nodes([node.id])[node.id])
