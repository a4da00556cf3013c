"""Work for witnesses."""

from fastapi import APIRouter

from marketplace.api.edge import Buyer, EdgeDep, SoundRoute
from marketplace.api.problems import AUTH, documented
from marketplace.wire.leases import PendingList

router = APIRouter(route_class=SoundRoute, prefix="/witness", tags=["witness"])


@router.get("/pending", operation_id="list_witness_pending", responses=documented(*AUTH))
def pending(edge: EdgeDep, caller: Buyer) -> PendingList:
    """What each open lease of the caller wants signed: one poll for a whole witness."""
    with edge.database.read() as store:
        return edge.catalog.witnessing.pending(store, caller)
