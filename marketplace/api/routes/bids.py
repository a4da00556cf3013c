"""Bids: written out for a buyer to sign."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from marketplace.api.edge import (
    AUTH,
    OWNED,
    Anyone,
    Buyer,
    Cursor,
    EdgeDep,
    Limit,
    SoundRoute,
    decode_cursor,
    page,
    problems,
)
from marketplace.api.schemas.base import Id
from marketplace.api.schemas.work import Bid, BidDraft, BidPage, PreparedBid
from marketplace.db.tables import BidRow
from marketplace.errors import InvalidInput, Problem
from marketplace.services.accounts import checksum_or_none
from marketplace.services.common import iso, to_hex

router = APIRouter(route_class=SoundRoute, prefix="/bids", tags=["bids"])


def show(row: BidRow) -> dict[str, Any]:
    """A bid as its parties see it."""
    return {
        "id": row.id,
        "account": row.account,
        "job_id": row.job_id,
        "bid": row.message,
        "signature": row.signature,
        "hash": row.hash,
        "created_at": iso(row.created_ms),
    }


@router.post(
    "/prepare",
    operation_id="prepare_bid",
    response_model=PreparedBid,
    responses=problems(*AUTH, "invalid_job", "chain_unavailable"),
)
def prepare(edge: EdgeDep, caller: Buyer, draft: BidDraft) -> Any:
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
    return {
        "typed_data": bid.typed_data(catalog.market.domain),
        "message": bid.to_message(),
        "hash": to_hex(bid.struct_hash()),
        "bid": bid.to_message(),
        "job_hash": to_hex(spec.hash()),
        "job": spec.to_json(),
        "plan": plan,
    }


@router.get("", operation_id="list_bids", response_model=BidPage, responses=problems(*AUTH))
def list_bids(edge: EdgeDep, caller: Buyer, limit: Limit = 50, cursor: Cursor = None) -> Any:
    """The caller's bids, newest first."""
    with edge.database.read() as store:
        rows = store.bids.page(caller.account, limit + 1, decode_cursor(cursor))
    return page(rows, limit, lambda row: row.id, show)


@router.get("/{bid_id}", operation_id="get_bid", response_model=Bid, responses=problems(*OWNED))
def get(edge: EdgeDep, caller: Anyone, bid_id: Id) -> Any:
    """A bid, for its buyer, its witness and the providers of its leases."""
    with edge.database.read() as store:
        return show(edge.catalog.leases.bid(store, caller, bid_id))
