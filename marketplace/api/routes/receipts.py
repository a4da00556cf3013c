"""Receipts of closed leases."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from marketplace.api.edge import (
    AUTH,
    Anyone,
    Cursor,
    EdgeDep,
    Limit,
    SoundRoute,
    decode_cursor,
    page,
    problems,
)
from marketplace.api.schemas.work import ReceiptPage

router = APIRouter(route_class=SoundRoute, prefix="/receipts", tags=["receipts"])


@router.get("", operation_id="list_receipts", response_model=ReceiptPage, responses=problems(*AUTH))
def list_receipts(edge: EdgeDep, caller: Anyone, limit: Limit = 50, cursor: Cursor = None) -> Any:
    """The caller's receipts, as buyer or provider, newest first."""
    receipts = edge.catalog.receipts
    with edge.database.read() as store:
        rows = store.receipts.page(caller.account, limit + 1, decode_cursor(cursor))
    return page(rows, limit, lambda row: row.id, receipts.to_json)
