"""Asks: signed offers of nodes. Anyone may see them."""

from typing import Annotated

from fastapi import APIRouter, Response

from marketplace.api.edge import (
    Cursor,
    EdgeDep,
    Id,
    Limit,
    Provider,
    Reply,
    SoundRoute,
    Words,
    WritingDep,
    decode_cursor,
    page,
)
from marketplace.api.problems import AUTH, ONCE, OWNED, documented
from marketplace.db.store import Store
from marketplace.services.views import ask_view
from marketplace.wire.base import Page, TypedData
from marketplace.wire.orders import AskDraft, AskInfo, PreparedAsk, SignedAsk

router = APIRouter(route_class=SoundRoute, prefix="/asks", tags=["asks"])
CREATED = (*AUTH, *ONCE, "chain_unavailable", "invalid_order", "invalid_signature")


@router.post("/prepare", operation_id="prepare_ask", responses=documented(*OWNED))
def prepare(edge: EdgeDep, caller: Provider, draft: AskDraft) -> PreparedAsk:
    """Write out an ask for a node; sign it with the node's account and post it."""
    with edge.database.write() as store:
        node = edge.catalog.nodes.get(store, caller, draft.node_id)
        salt = edge.catalog.accounts.salt(store, caller.account)
    ask = edge.catalog.asks.prepare(node, draft, salt)
    document = TypedData.of(ask, edge.catalog.market.domain)
    return PreparedAsk(typed_data=document, ask=ask, hash=ask.struct_hash())


@router.post(
    "",
    status_code=201,
    operation_id="create_ask",
    response_model=AskInfo,
    responses=documented(*CREATED, "already_exists", "conflict"),
)
def create(edge: EdgeDep, caller: Provider, body: SignedAsk, write: WritingDep) -> Response:
    """Put a signed ask on the book."""
    asks = edge.catalog.asks
    stored = write.replay(caller)
    if stored is not None:
        return stored
    checked = asks.check(body)

    def act(store: Store) -> Reply:
        row = asks.create(store, caller, checked)
        view = ask_view(store, row, edge.catalog.clock())
        return Reply(view, 201, {"Location": f"/v1/asks/{row.id}"})

    return write.run(caller, act)


@router.get("", operation_id="list_asks", responses=documented())
def list_asks(
    edge: EdgeDep,
    provider: Annotated[str | None, Words] = None,
    node_id: Annotated[str | None, Words] = None,
    tier: Annotated[str | None, Words] = None,
    state: Annotated[str | None, Words] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[AskInfo]:
    """Asks, newest first, by provider, node, tier and state."""
    given = {"provider": provider, "node_id": node_id, "tier": tier}
    equal = {name: value for name, value in given.items() if value}
    states = tuple(state.split(",")) if state else ()
    now_ms = edge.catalog.clock()
    with edge.database.read() as store:
        rows = edge.catalog.asks.page(store, limit + 1, decode_cursor(cursor), states, **equal)
        return page(Page[AskInfo], rows, limit, lambda row: ask_view(store, row, now_ms))


@router.get("/{ask_id}", operation_id="get_ask", responses=documented("not_found"))
def get(edge: EdgeDep, ask_id: Id) -> AskInfo:
    """One ask."""
    with edge.database.read() as store:
        return ask_view(store, edge.catalog.asks.get(store, ask_id), edge.catalog.clock())


@router.delete(
    "/{ask_id}",
    operation_id="cancel_ask",
    response_model=AskInfo,
    responses=documented(*OWNED, *ONCE),
)
def cancel(edge: EdgeDep, caller: Provider, ask_id: Id, write: WritingDep) -> Response:
    """Take an ask off the book: no new fills; leases it opened go on."""
    asks = edge.catalog.asks

    def act(store: Store) -> Reply:
        row = asks.cancel(store, caller, ask_id)
        return Reply(ask_view(store, row, edge.catalog.clock()))

    return write.run(caller, act)
