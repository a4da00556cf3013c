"""Orders of either side: made void."""

from fastapi import Response

from marketplace.api.edge import Anyone, EdgeDep, Routes, WritingDep
from marketplace.api.problems import ONCE, OWNED
from marketplace.db.store import Store
from marketplace.wire.base import TypedData
from marketplace.wire.orders import CancelDraft, CancelledOrders, PreparedCancel, SignedCancel

routes = Routes()
REFUSED = (
    *OWNED, *ONCE, "chain_unavailable", "conflict", "already_exists", "invalid_signature",
)  # fmt: skip


@routes.reads("POST /orders/cancel/prepare", "prepare_cancel", *OWNED, "conflict")
def prepare(edge: EdgeDep, store: Store, caller: Anyone, draft: CancelDraft) -> PreparedCancel:
    """Write out a cancel of one ask, bid or job, or of every order so far; sign it and post it."""
    cancel = edge.catalog.cancels.prepare(store, caller, draft.order_id)
    document = TypedData.of(cancel, edge.catalog.market.domain)
    return PreparedCancel(typed_data=document, cancel=cancel)


@routes.on(
    "POST /orders/cancel",
    "cancel_orders",
    *REFUSED,
    status_code=202,
    response_model=CancelledOrders,
)
def cancel(edge: EdgeDep, caller: Anyone, body: SignedCancel, write: WritingDep) -> Response:
    """Make orders void: off the book now, on chain soon. Leases that are open go on."""
    cancels = edge.catalog.cancels
    return write.run_checked(
        caller,
        lambda: cancels.check(caller, body),
        lambda store, _: cancels.submit(store, caller, body),
        202,
    )
