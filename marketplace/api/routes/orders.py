"""Orders of either side: made void."""

from fastapi import APIRouter, Response

from marketplace.api.edge import Anyone, EdgeDep, Reply, SoundRoute, WritingDep
from marketplace.api.problems import ONCE, OWNED, documented
from marketplace.db.store import Store
from marketplace.wire.base import TypedData
from marketplace.wire.orders import CancelDraft, Cancelled, PreparedCancel, SignedCancel

router = APIRouter(route_class=SoundRoute, prefix="/orders", tags=["orders"])
REFUSED = ("chain_unavailable", "conflict", "already_exists", "invalid_signature")


@router.post(
    "/cancel/prepare", operation_id="prepare_cancel", responses=documented(*OWNED, "conflict")
)
def prepare(edge: EdgeDep, caller: Anyone, draft: CancelDraft) -> PreparedCancel:
    """Write out a cancel of one ask, bid or job, or of every order so far; sign it and post it."""
    with edge.database.read() as store:
        cancel = edge.catalog.cancels.prepare(store, caller, draft.order_id)
    document = TypedData.of(cancel, edge.catalog.market.domain)
    return PreparedCancel(typed_data=document, cancel=cancel)


@router.post(
    "/cancel",
    status_code=202,
    operation_id="cancel_orders",
    response_model=Cancelled,
    responses=documented(*OWNED, *ONCE, *REFUSED),
)
def cancel(edge: EdgeDep, caller: Anyone, body: SignedCancel, write: WritingDep) -> Response:
    """Make orders void: off the book now, on chain soon. Leases that are open go on."""
    cancels = edge.catalog.cancels
    stored = write.replay(caller)
    if stored is not None:
        return stored
    cancels.check(caller, body)

    def act(store: Store) -> Reply:
        return Reply(cancels.submit(store, caller, body), 202)

    return write.run(caller, act)
