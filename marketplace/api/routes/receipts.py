"""Receipts of closed leases."""

from fastapi import APIRouter

from marketplace.api.edge import Anyone, Cursor, EdgeDep, Limit, SoundRoute, decode_cursor, page
from marketplace.api.problems import AUTH, documented
from marketplace.services.receipts import receipt_view
from marketplace.wire.base import Page
from marketplace.wire.jobs import Receipt

router = APIRouter(route_class=SoundRoute, prefix="/receipts", tags=["receipts"])


@router.get("", operation_id="list_receipts", responses=documented(*AUTH))
def list_receipts(
    edge: EdgeDep, caller: Anyone, limit: Limit = 50, cursor: Cursor = None
) -> Page[Receipt]:
    """The caller's receipts, as buyer or provider, newest first."""
    with edge.database.read() as store:
        rows = store.receipts.page(caller.account, limit + 1, decode_cursor(cursor))
        return page(Page[Receipt], rows, limit, receipt_view)
