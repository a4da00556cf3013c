"""Work for witnesses."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from marketplace.api.edge import AUTH, Buyer, EdgeDep, SoundRoute, problems
from marketplace.api.schemas.work import WitnessPending

router = APIRouter(route_class=SoundRoute, prefix="/witness", tags=["witness"])


@router.get(
    "/pending",
    operation_id="list_witness_pending",
    response_model=WitnessPending,
    responses=problems(*AUTH),
)
def pending(edge: EdgeDep, caller: Buyer) -> Any:
    """What each open lease of the caller wants signed: one poll for a whole witness."""
    with edge.database.read() as store:
        return {"data": edge.catalog.witnessing.pending(store, caller)}
