"""Bids: written out for a buyer to sign."""

from marketplace.api.edge import Anyone, Buyer, EdgeDep, Id, Paged, Routes
from marketplace.api.problems import AUTH, OWNED
from marketplace.db.store import Store
from marketplace.errors import InvalidInput, Problem
from marketplace.services.accounts import checksum_or_none
from marketplace.services.views import bid_view
from marketplace.wire.base import Page, TypedData
from marketplace.wire.orders import BidDraft, BidInfo, PreparedBid

routes = Routes()


@routes.on("POST /bids/prepare", "prepare_bid", *AUTH, "invalid_job", "chain_unavailable")
def prepare(edge: EdgeDep, caller: Buyer, draft: BidDraft) -> PreparedBid:
    """Write out a job's bid, with a fresh salt, and the plan: price, maximum cost, balance."""
    if draft.account and checksum_or_none(draft.account) != caller.account:
        raise InvalidInput([Problem("/account", "must be the account of the API key")])
    catalog = edge.catalog
    spec = catalog.quotes.spec(draft.job)
    balance = catalog.jobs.reads.balance_of(caller.account)
    with edge.database.write() as store:
        salt = catalog.accounts.salt(store, caller.account)
    bid = catalog.quotes.draft(spec, caller.account, draft.witness, salt)
    with edge.database.read() as store:
        plan = catalog.quotes.plan(store, caller, spec, bid, balance)
    return PreparedBid(
        typed_data=TypedData.of(bid, catalog.market.domain),
        bid=bid,
        hash=bid.struct_hash(),
        job_hash=spec.hash(),
        job=spec.to_json(),
        plan=plan,
    )


@routes.reads("GET /bids", "list_bids", *AUTH)
def list_bids(edge: EdgeDep, store: Store, caller: Buyer, paging: Paged) -> Page[BidInfo]:
    """The caller's bids, newest first."""
    return paging.page(Page[BidInfo], store.bids.page(caller.account, paging.wanted), bid_view)


@routes.reads("GET /bids/{bid_id}", "get_bid", *OWNED)
def get(edge: EdgeDep, store: Store, caller: Anyone, bid_id: Id) -> BidInfo:
    """A bid, for its buyer, its witness and the providers of its leases."""
    return bid_view(edge.catalog.leases.bid(store, caller, bid_id))
