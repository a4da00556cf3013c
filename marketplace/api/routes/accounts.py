"""API keys, asked for by signature (no password, no account before), and money in the escrow."""

from marketplace.api.edge import Anyone, EdgeDep, Id, Paged, Routes
from marketplace.api.problems import AUTH, OWNED
from marketplace.db.store import Store
from marketplace.services.views import key_view
from marketplace.wire.base import Page, TypedData
from marketplace.wire.market import (
    Account,
    ApiKey,
    KeyDraft,
    NewApiKey,
    PreparedKey,
    SignedKeyRequest,
)

routes = Routes()
REFUSED = (
    "invalid_signature", "forbidden", "already_exists", "conflict", "purse_expired",
    "chain_unavailable",
)  # fmt: skip


@routes.on("POST /keys/prepare", "prepare_key")
def prepare(edge: EdgeDep, draft: KeyDraft) -> PreparedKey:
    """Write out the message that asks for a key; sign it with the account and post it."""
    request = edge.catalog.accounts.prepare_key(draft)
    document = TypedData.of(request, edge.catalog.market.domain)
    return PreparedKey(typed_data=document, message=request)


@routes.on("POST /keys", "create_key", *REFUSED, status_code=201)
def create(edge: EdgeDep, signed: SignedKeyRequest) -> NewApiKey:
    """Make a key from a signed request. The key itself is shown in this answer only."""
    request = edge.catalog.accounts.check_key(signed)
    with edge.database.write() as store:
        row, key = edge.catalog.accounts.create_key(store, request)
        return NewApiKey(**dict(key_view(edge.catalog.market, row)), key=key)


@routes.reads("GET /keys", "list_keys", *AUTH)
def list_keys(edge: EdgeDep, store: Store, caller: Anyone, paging: Paged) -> Page[ApiKey]:
    """The caller's keys, newest first."""
    rows = store.keys.page(caller.account, paging.wanted)
    return paging.page(Page[ApiKey], rows, lambda row: key_view(edge.catalog.market, row))


@routes.writes("DELETE /keys/{key_id}", "revoke_key", *OWNED)
def revoke(edge: EdgeDep, store: Store, caller: Anyone, key_id: Id) -> ApiKey:
    """Make a key useless at once."""
    return key_view(edge.catalog.market, edge.catalog.accounts.revoke(store, caller, key_id))


@routes.on("GET /accounts/{address}", "get_account", *OWNED, "chain_unavailable")
def get(edge: EdgeDep, caller: Anyone, address: Id) -> Account:
    """Free and locked money of the caller's account, and its next salt."""
    free = edge.catalog.accounts.free(caller, address)
    with edge.database.read() as store:
        return edge.catalog.accounts.funds(store, caller, free)
