"""Asks: signed offers of nodes. Anyone may see them."""

from __future__ import annotations

from typing import Annotated, Any

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
from marketplace.api.schemas.base import Id, Words
from marketplace.api.schemas.offers import Ask, AskDraft, AskPage, PreparedAsk, SignedAsk
from marketplace.db.store import Store
from marketplace.services.common import from_hex, to_hex

router = APIRouter(route_class=SoundRoute, prefix="/asks", tags=["asks"])


@router.post(
    "/prepare",
    operation_id="prepare_ask",
    response_model=PreparedAsk,
    responses=problems(*OWNED),
)
def prepare(edge: EdgeDep, caller: Provider, draft: AskDraft) -> Any:
    """Write out an ask for a node; sign it with the node's account and post it."""
    terms = draft.model_dump(exclude={"node_id"}, exclude_none=True)
    with edge.database.write() as store:
        node = edge.catalog.nodes.get(store, caller, draft.node_id)
        salt = edge.catalog.accounts.salt(store, caller.account)
    ask = edge.catalog.asks.prepare(node, terms, salt)
    return {
        "typed_data": ask.typed_data(edge.catalog.market.domain),
        "message": ask.to_message(),
        "hash": to_hex(ask.struct_hash()),
        "ask": ask.to_message(),
    }


@router.post(
    "",
    status_code=201,
    operation_id="create_ask",
    response_model=Ask,
    responses=problems(
        *AUTH,
        "chain_unavailable",
        "invalid_order",
        "invalid_signature",
        "already_exists",
        "conflict",
        "idempotency_mismatch",
        "idempotency_in_flight",
    ),
)
def create(edge: EdgeDep, caller: Provider, body: SignedAsk, write: WritingDep) -> Any:
    """Put a signed ask on the book."""
    asks = edge.catalog.asks
    stored = write.replay(caller)
    if stored is not None:
        return stored
    signed = asks.read(body.ask, from_hex(body.signature, "/signature"))

    def act(store: Store) -> Reply:
        row = asks.create(store, caller, signed)
        return Reply(asks.to_json(store, row), 201, {"Location": f"/v1/asks/{row.id}"})

    return write.run(caller, act)


@router.get("", operation_id="list_asks", response_model=AskPage, responses=problems())
def list_asks(
    edge: EdgeDep,
    provider: Annotated[str | None, Words] = None,
    node_id: Annotated[str | None, Words] = None,
    tier: Annotated[str | None, Words] = None,
    state: Annotated[str | None, Words] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    """Asks, newest first, by provider, node, tier and state."""
    given = {"provider": provider, "node_id": node_id, "tier": tier}
    equal = {name: value for name, value in given.items() if value}
    states = tuple(state.split(",")) if state else ()
    asks = edge.catalog.asks
    with edge.database.read() as store:
        rows = asks.page(store, limit + 1, decode_cursor(cursor), states, **equal)
        return page(rows, limit, lambda row: row.id, lambda row: asks.to_json(store, row))


@router.get(
    "/{ask_id}", operation_id="get_ask", response_model=Ask, responses=problems("not_found")
)
def get(edge: EdgeDep, ask_id: Id) -> Any:
    """One ask."""
    with edge.database.read() as store:
        return edge.catalog.asks.to_json(store, edge.catalog.asks.get(store, ask_id))


@router.delete(
    "/{ask_id}", operation_id="cancel_ask", response_model=Ask, responses=problems(*OWNED)
)
def cancel(edge: EdgeDep, caller: Provider, ask_id: Id, write: WritingDep) -> Any:
    """Take an ask off the book: no new fills; leases it opened go on."""
    asks = edge.catalog.asks

    def act(store: Store) -> Reply:
        return Reply(asks.to_json(store, asks.cancel(store, caller, ask_id)))

    return write.run(caller, act)
