"""Money of accounts in the escrow."""

from fastapi import APIRouter

from marketplace.api.edge import Anyone, EdgeDep, Id, SoundRoute
from marketplace.api.problems import OWNED, documented
from marketplace.wire.market import Account

router = APIRouter(route_class=SoundRoute, prefix="/accounts", tags=["accounts"])


@router.get(
    "/{address}", operation_id="get_account", responses=documented(*OWNED, "chain_unavailable")
)
def get(edge: EdgeDep, caller: Anyone, address: Id) -> Account:
    """Free and locked money of the caller's account, and its next salt."""
    accounts = edge.catalog.accounts
    free = accounts.free(caller, address)
    with edge.database.read() as store:
        return accounts.funds(store, caller, free)
