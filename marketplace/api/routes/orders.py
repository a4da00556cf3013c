"""Orders of either side: made void."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from marketplace.api.edge import (
    OWNED,
    Anyone,
    EdgeDep,
    Reply,
    SoundRoute,
    WritingDep,
    problems,
)
from marketplace.api.schemas.base import Prepared
from marketplace.api.schemas.orders import CancelDraft, CancelIn, Cancelled
from marketplace.db.store import Store
from marketplace.services.common import from_hex

router = APIRouter(route_class=SoundRoute, prefix="/orders", tags=["orders"])


@router.post(
    "/cancel/prepare",
    operation_id="prepare_cancel",
    response_model=Prepared,
    responses=problems(*OWNED, "conflict"),
)
def prepare(edge: EdgeDep, caller: Anyone, draft: CancelDraft) -> Any:
    """Write out a cancel of one ask, bid or job, or of every order so far; sign it and post it."""
    with edge.database.read() as store:
        cancel = edge.catalog.cancels.prepare(store, caller, draft.order_id)
    return {
        "typed_data": cancel.typed_data(edge.catalog.market.domain),
        "message": cancel.to_message(),
    }


@router.post(
    "/cancel",
    status_code=202,
    operation_id="cancel_orders",
    response_model=Cancelled,
    responses=problems(
        *OWNED,
        "chain_unavailable",
        "conflict",
        "already_exists",
        "invalid_signature",
        "idempotency_mismatch",
        "idempotency_in_flight",
    ),
)
def cancel(edge: EdgeDep, caller: Anyone, body: CancelIn, write: WritingDep) -> Any:
    """Make orders void: off the book now, on chain soon. Leases that are open go on."""
    cancels = edge.catalog.cancels
    stored = write.replay(caller)
    if stored is not None:
        return stored
    signed = cancels.read(caller, body.cancel, from_hex(body.signature, "/signature"))

    def act(store: Store) -> Reply:
        return Reply(cancels.submit(store, caller, signed), 202)

    return write.run(caller, act)
