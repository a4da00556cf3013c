"""API keys: asked for by signature, no password and no account before."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from marketplace.api.edge import (
    AUTH,
    OWNED,
    Anyone,
    Cursor,
    EdgeDep,
    Limit,
    Reply,
    SoundRoute,
    WritingDep,
    decode_cursor,
    page,
    problems,
)
from marketplace.api.schemas.base import Id, Prepared
from marketplace.api.schemas.offers import ApiKey, KeyDraft, KeyPage, NewApiKey, SignedKeyRequest
from marketplace.db.store import Store
from marketplace.domain.key_request import SCOPES
from marketplace.domain.pricing import to_atoms
from marketplace.errors import InvalidInput, Problem
from marketplace.services.common import from_hex

router = APIRouter(route_class=SoundRoute, prefix="/keys", tags=["keys"])


@router.post("/prepare", operation_id="prepare_key", response_model=Prepared, responses=problems())
def prepare(edge: EdgeDep, draft: KeyDraft) -> dict[str, Any]:
    """Write out the message that asks for a key; sign it with the account and post it."""
    unknown = [scope for scope in draft.scopes if scope not in SCOPES]
    if unknown or len(set(draft.scopes)) != len(draft.scopes):
        raise InvalidInput([Problem("/scopes", f"must be different ones of {', '.join(SCOPES)}")])
    cap = None if draft.spend_cap is None else to_atoms(draft.spend_cap, "/spend_cap")
    accounts = edge.catalog.accounts
    request = accounts.prepare_key(draft.account, draft.name, draft.scopes, draft.expires_at, cap)
    return {
        "typed_data": request.typed_data(edge.catalog.market.domain),
        "message": request.to_message(),
    }


@router.post(
    "",
    status_code=201,
    operation_id="create_key",
    response_model=NewApiKey,
    responses=problems(
        "invalid_signature", "forbidden", "already_exists", "conflict", "chain_unavailable"
    ),
)
def create(edge: EdgeDep, signed: SignedKeyRequest) -> Any:
    """Make a key from a signed request. The key itself is shown in this answer only."""
    accounts = edge.catalog.accounts
    request = accounts.check_key(signed.message, from_hex(signed.signature, "/signature"))
    with edge.database.write() as store:
        row, key = accounts.create_key(store, request)
    return Reply({**accounts.to_json(row), "key": key}, 201).response()


@router.get("", operation_id="list_keys", response_model=KeyPage, responses=problems(*AUTH))
def list_keys(edge: EdgeDep, caller: Anyone, limit: Limit = 50, cursor: Cursor = None) -> Any:
    """The caller's keys, newest first."""
    accounts = edge.catalog.accounts
    with edge.database.read() as store:
        rows = store.keys.page(caller.account, limit + 1, decode_cursor(cursor))
    return page(rows, limit, lambda row: row.id, accounts.to_json)


@router.delete(
    "/{key_id}", operation_id="revoke_key", response_model=ApiKey, responses=problems(*OWNED)
)
def revoke(edge: EdgeDep, caller: Anyone, key_id: Id, write: WritingDep) -> Any:
    """Make a key useless at once."""
    accounts = edge.catalog.accounts

    def act(store: Store) -> Reply:
        return Reply(accounts.to_json(accounts.revoke(store, caller, key_id)))

    return write.run(caller, act)
