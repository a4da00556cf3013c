"""Asks: signed offers of nodes. Anyone may see them."""

from fastapi import Response

from marketplace.api.edge import EdgeDep, Id, Paged, Provider, Routes, Words, WritingDep
from marketplace.api.problems import AUTH, ONCE, OWNED
from marketplace.db.store import Store
from marketplace.services.offers import CheckedAsk
from marketplace.services.views import ask_view
from marketplace.wire.base import Page, TypedData
from marketplace.wire.orders import AskDraft, AskInfo, PreparedAsk, SignedAsk

routes = Routes()
CREATED = (
    *AUTH, *ONCE, "chain_unavailable", "invalid_order", "invalid_signature", "already_exists",
    "conflict",
)  # fmt: skip


@routes.on("POST /asks/prepare", "prepare_ask", *OWNED)
def prepare(edge: EdgeDep, caller: Provider, draft: AskDraft) -> PreparedAsk:
    """Write out an ask for a node; sign it with the node's account and post it."""
    with edge.database.write() as store:
        node = edge.catalog.nodes.get(store, caller, draft.node_id)
        salt = edge.catalog.accounts.salt(store, caller.account)
    ask = edge.catalog.asks.prepare(node, draft, salt)
    document = TypedData.of(ask, edge.catalog.market.domain)
    return PreparedAsk(typed_data=document, ask=ask, hash=ask.struct_hash())


@routes.on("POST /asks", "create_ask", *CREATED, status_code=201, response_model=AskInfo)
def create(edge: EdgeDep, caller: Provider, body: SignedAsk, write: WritingDep) -> Response:
    """Put a signed ask on the book."""
    asks = edge.catalog.asks

    def act(store: Store, checked: CheckedAsk) -> AskInfo:
        return ask_view(store, asks.create(store, caller, checked), edge.catalog.clock())

    return write.run_checked(caller, lambda: asks.check(body), act, 201)


@routes.reads("GET /asks", "list_asks")
def list_asks(
    edge: EdgeDep,
    store: Store,
    paging: Paged,
    provider: Words = None,
    node_id: Words = None,
    tier: Words = None,
    state: Words = None,
) -> Page[AskInfo]:
    """Asks, newest first, by provider, node, tier and state."""
    equal = {"provider": provider, "node_id": node_id, "tier": tier}
    states = tuple(state.split(",")) if state else ()
    now_ms = edge.catalog.clock()
    rows = edge.catalog.asks.page(store, equal, states, paging.wanted)
    return paging.page(Page[AskInfo], rows, lambda row: ask_view(store, row, now_ms))


@routes.reads("GET /asks/{ask_id}", "get_ask", "not_found")
def get(edge: EdgeDep, store: Store, ask_id: Id) -> AskInfo:
    """One ask."""
    return ask_view(store, edge.catalog.asks.get(store, ask_id), edge.catalog.clock())


@routes.writes("DELETE /asks/{ask_id}", "cancel_ask", *OWNED)
def cancel(edge: EdgeDep, store: Store, caller: Provider, ask_id: Id) -> AskInfo:
    """Take an ask off the book: no new fills; leases it opened go on."""
    row = edge.catalog.asks.cancel(store, caller, ask_id)
    return ask_view(store, row, edge.catalog.clock())
