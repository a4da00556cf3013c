"""Money of accounts in the escrow."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from marketplace.api.edge import OWNED, Anyone, EdgeDep, SoundRoute, problems
from marketplace.api.schemas.base import Id
from marketplace.api.schemas.offers import Account

router = APIRouter(route_class=SoundRoute, prefix="/accounts", tags=["accounts"])


@router.get(
    "/{address}",
    operation_id="get_account",
    response_model=Account,
    responses=problems(*OWNED, "chain_unavailable"),
)
def get(edge: EdgeDep, caller: Anyone, address: Id) -> Any:
    """Free and locked money of the caller's account, and its next salt."""
    accounts = edge.catalog.accounts
    free = accounts.free(caller, address)
    with edge.database.read() as store:
        return accounts.funds(store, caller, free)
