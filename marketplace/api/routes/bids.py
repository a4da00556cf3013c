"""Bids: written out for a buyer to sign."""

from fastapi import APIRouter

from marketplace.api.edge import (
    Anyone,
    Buyer,
    Cursor,
    EdgeDep,
    Id,
    Limit,
    SoundRoute,
    decode_cursor,
    page,
)
from marketplace.api.problems import AUTH, OWNED, documented
from marketplace.errors import InvalidInput, Problem
from marketplace.services.accounts import checksum_or_none
from marketplace.services.views import bid_view
from marketplace.wire.base import Page, TypedData
from marketplace.wire.orders import BidDraft, BidInfo, PreparedBid

router = APIRouter(route_class=SoundRoute, prefix="/bids", tags=["bids"])


@router.post(
    "/prepare",
    operation_id="prepare_bid",
    responses=documented(*AUTH, "invalid_job", "chain_unavailable"),
)
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


@router.get("", operation_id="list_bids", responses=documented(*AUTH))
def list_bids(
    edge: EdgeDep, caller: Buyer, limit: Limit = 50, cursor: Cursor = None
) -> Page[BidInfo]:
    """The caller's bids, newest first."""
    with edge.database.read() as store:
        rows = store.bids.page(caller.account, limit + 1, decode_cursor(cursor))
        return page(Page[BidInfo], rows, limit, bid_view)


@router.get("/{bid_id}", operation_id="get_bid", responses=documented(*OWNED))
def get(edge: EdgeDep, caller: Anyone, bid_id: Id) -> BidInfo:
    """A bid, for its buyer, its witness and the providers of its leases."""
    with edge.database.read() as store:
        return bid_view(edge.catalog.leases.bid(store, caller, bid_id))
