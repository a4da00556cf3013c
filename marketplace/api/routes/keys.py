"""API keys: asked for by signature, no password and no account before."""

from fastapi import APIRouter, Response

from marketplace.api.edge import (
    Anyone,
    Cursor,
    EdgeDep,
    Id,
    Limit,
    Reply,
    SoundRoute,
    WritingDep,
    decode_cursor,
    page,
)
from marketplace.api.problems import AUTH, ONCE, OWNED, documented
from marketplace.db.store import Store
from marketplace.services.views import key_view, new_key_view
from marketplace.wire.base import Page, TypedData
from marketplace.wire.market import ApiKey, KeyDraft, NewApiKey, PreparedKey, SignedKeyRequest

router = APIRouter(route_class=SoundRoute, prefix="/keys", tags=["keys"])
REFUSED = ("invalid_signature", "forbidden", "already_exists", "conflict", "chain_unavailable")


@router.post("/prepare", operation_id="prepare_key", responses=documented())
def prepare(edge: EdgeDep, draft: KeyDraft) -> PreparedKey:
    """Write out the message that asks for a key; sign it with the account and post it."""
    request = edge.catalog.accounts.prepare_key(draft)
    document = TypedData.of(request, edge.catalog.market.domain)
    return PreparedKey(typed_data=document, message=request)


@router.post("", status_code=201, operation_id="create_key", responses=documented(*REFUSED))
def create(edge: EdgeDep, signed: SignedKeyRequest) -> NewApiKey:
    """Make a key from a signed request. The key itself is shown in this answer only."""
    accounts = edge.catalog.accounts
    request = accounts.check_key(signed)
    with edge.database.write() as store:
        row, key = accounts.create_key(store, request)
        return new_key_view(edge.catalog.market, row, key)


@router.get("", operation_id="list_keys", responses=documented(*AUTH))
def list_keys(
    edge: EdgeDep, caller: Anyone, limit: Limit = 50, cursor: Cursor = None
) -> Page[ApiKey]:
    """The caller's keys, newest first."""
    market = edge.catalog.market
    with edge.database.read() as store:
        rows = store.keys.page(caller.account, limit + 1, decode_cursor(cursor))
        return page(Page[ApiKey], rows, limit, lambda row: key_view(market, row))


@router.delete(
    "/{key_id}",
    operation_id="revoke_key",
    response_model=ApiKey,
    responses=documented(*OWNED, *ONCE),
)
def revoke(edge: EdgeDep, caller: Anyone, key_id: Id, write: WritingDep) -> Response:
    """Make a key useless at once."""

    def act(store: Store) -> Reply:
        row = edge.catalog.accounts.revoke(store, caller, key_id)
        return Reply(key_view(edge.catalog.market, row))

    return write.run(caller, act)
