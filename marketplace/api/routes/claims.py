"""Claims: time that no witness signed; contested by the buyer, ruled on by an arbiter."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from marketplace.api.edge import (
    AUTH,
    OWNED,
    Anyone,
    Buyer,
    Cursor,
    EdgeDep,
    Limit,
    Provider,
    Reply,
    SoundRoute,
    WritingDep,
    decode_cursor,
    page,
    problems,
)
from marketplace.api.schemas.base import Id, Prepared, Words
from marketplace.api.schemas.claims import (
    Claim,
    ClaimIn,
    ClaimPage,
    RulingDraft,
    RulingIn,
    TopUp,
    TopUpIn,
    Transactions,
)
from marketplace.domain.pricing import to_atoms
from marketplace.domain.reader import seconds_of
from marketplace.errors import InvalidInput, Problem
from marketplace.services.common import from_hex
from marketplace.services.ports import Store

router = APIRouter(route_class=SoundRoute, tags=["claims"])


@router.get(
    "/claims", operation_id="list_claims", response_model=ClaimPage, responses=problems(*AUTH)
)
def list_claims(
    edge: EdgeDep,
    caller: Anyone,
    role: Annotated[str | None, Query(pattern="^(provider|buyer|arbiter)$")] = None,
    state: Annotated[str | None, Words] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    """Claims that the caller made, has to pay, or rules on, newest first."""
    disputes = edge.catalog.disputes
    states = tuple(state.split(",")) if state else ()
    with edge.database.read() as store:
        rows = disputes.find(store, caller, role, states, limit + 1, decode_cursor(cursor))
    return page(rows, limit, lambda row: row.id, disputes.to_json)


@router.get(
    "/leases/{lease_id}/claim",
    operation_id="get_claim",
    response_model=Claim,
    responses=problems(*OWNED),
)
def get(edge: EdgeDep, caller: Anyone, lease_id: Id) -> Any:
    """A lease's claim, for its parties and its arbiter."""
    disputes = edge.catalog.disputes
    with edge.database.read() as store:
        return disputes.to_json(disputes.get(store, caller, lease_id))


@router.post(
    "/leases/{lease_id}/claim/prepare",
    operation_id="prepare_claim",
    response_model=Transactions,
    responses=problems(*OWNED, "conflict"),
)
def claim(edge: EdgeDep, caller: Provider, lease_id: Id, body: ClaimIn) -> Any:
    """Write out what the payout account sends to claim: the best voucher first, then the claim.

    The claimed amount stays locked, as much of the provider's balance becomes a bond.
    """
    with edge.database.read() as store:
        steps = edge.catalog.disputes.claim(store, caller, lease_id, body.ms)
    return {"lease_id": lease_id, "transactions": steps}


@router.post(
    "/leases/{lease_id}/claim/contest/prepare",
    operation_id="prepare_contest",
    response_model=Transactions,
    responses=problems(*OWNED, "conflict"),
)
def contest(edge: EdgeDep, caller: Buyer, lease_id: Id) -> Any:
    """Write out what the buyer sends to contest a claim, for a bond as large as it."""
    with edge.database.read() as store:
        steps = edge.catalog.disputes.contest(store, caller, lease_id)
    return {"lease_id": lease_id, "transactions": steps}


@router.post(
    "/leases/{lease_id}/claim/close/prepare",
    operation_id="prepare_claim_close",
    response_model=Transactions,
    responses=problems(*OWNED, "conflict"),
)
def close(edge: EdgeDep, caller: Anyone, lease_id: Id) -> Any:
    """Write out what closes a claim whose window is over. The market sends it by itself, too."""
    with edge.database.read() as store:
        steps = edge.catalog.disputes.close(store, caller, lease_id)
    return {"lease_id": lease_id, "transactions": steps}


@router.post(
    "/leases/{lease_id}/claim/ruling/prepare",
    operation_id="prepare_ruling",
    response_model=Prepared,
    responses=problems(*OWNED, "conflict"),
)
def prepare_ruling(edge: EdgeDep, caller: Anyone, lease_id: Id, draft: RulingDraft) -> Any:
    """Write out a ruling on a contested claim; sign it with the arbiter's key and post it."""
    award = to_atoms(draft.award, "/award", edge.catalog.market.decimals)
    with edge.database.read() as store:
        ruling = edge.catalog.disputes.prepare_ruling(store, caller, lease_id, award)
    return {
        "typed_data": ruling.typed_data(edge.catalog.market.domain),
        "message": ruling.to_message(),
    }


@router.post(
    "/leases/{lease_id}/claim/ruling",
    status_code=202,
    operation_id="rule_claim",
    response_model=Claim,
    responses=problems(
        *OWNED,
        "chain_unavailable",
        "conflict",
        "invalid_signature",
        "idempotency_mismatch",
        "idempotency_in_flight",
    ),
)
def rule(edge: EdgeDep, caller: Anyone, lease_id: Id, body: RulingIn, write: WritingDep) -> Any:
    """Hand in a signed ruling; it goes to the chain."""
    disputes = edge.catalog.disputes
    stored = write.replay(caller)
    if stored is not None:
        return stored
    signed = disputes.read(caller, body.ruling, from_hex(body.signature, "/signature"))

    def act(store: Store) -> Reply:
        lease = disputes.rule(store, caller, lease_id, signed)
        return Reply(disputes.to_json(lease), 202, {"Location": f"/v1/leases/{lease.id}/claim"})

    return write.run(caller, act)


@router.post(
    "/jobs/{job_id}/top-up/prepare",
    operation_id="prepare_top_up",
    response_model=TopUp,
    responses=problems(*OWNED, "conflict"),
)
def top_up(edge: EdgeDep, caller: Buyer, job_id: Id, body: TopUpIn) -> Any:
    """Write out what the buyer sends to let a job run longer, within the bid's budget."""
    try:
        seconds = seconds_of(body.duration)
    except ValueError as error:
        raise InvalidInput([Problem("/duration", str(error))]) from error
    with edge.database.read() as store:
        lease, steps, lock = edge.catalog.disputes.top_up(store, caller, job_id, seconds)
    return {"lease_id": lease.id, "transactions": steps, "lock": lock}
