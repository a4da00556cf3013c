"""Leases: what meter and witness say to each other, and how a lease ends."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from marketplace.api.edge import (
    AUTH,
    OWNED,
    Anyone,
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
from marketplace.api.schemas.base import Id, Words
from marketplace.api.schemas.work import (
    AttestationAnswer,
    AttestationIn,
    AttestationPage,
    FinishIn,
    Heartbeat,
    HeartbeatIn,
    Lease,
    LeasePage,
    LogAnswer,
    LogIn,
    SignatureIn,
    StopIn,
)
from marketplace.db.store import Store
from marketplace.services.attestations import refused
from marketplace.services.common import from_hex
from marketplace.services.ends import Report
from marketplace.services.leases import party

router = APIRouter(route_class=SoundRoute, prefix="/leases", tags=["leases"])


@router.get("", operation_id="list_leases", response_model=LeasePage, responses=problems(*AUTH))
def list_leases(
    edge: EdgeDep,
    caller: Anyone,
    role: Annotated[str | None, Query(pattern="^(provider|buyer|witness)$")] = None,
    state: Annotated[str | None, Words] = None,
    node_id: Annotated[str | None, Words] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    """The caller's leases, newest first, by role, state and node."""
    leases = edge.catalog.leases
    states = tuple(state.split(",")) if state else ()
    with edge.database.read() as store:
        rows = leases.find(store, caller, role, states, node_id, limit + 1, decode_cursor(cursor))
        return page(rows, limit, lambda row: row.id, lambda row: leases.to_json(store, row))


@router.get(
    "/{lease_id}", operation_id="get_lease", response_model=Lease, responses=problems(*OWNED)
)
def get(edge: EdgeDep, caller: Anyone, lease_id: Id) -> Any:
    """One lease, for its parties."""
    with edge.database.read() as store:
        return edge.catalog.leases.to_json(store, party(store, caller, lease_id))


@router.post(
    "/{lease_id}/attestations",
    status_code=201,
    operation_id="attest_usage",
    response_model=AttestationAnswer,
    responses=problems(*OWNED, "attestation_refused"),
)
def attest(
    edge: EdgeDep, caller: Provider, lease_id: Id, body: AttestationIn, write: WritingDep
) -> Any:
    """Hand in cumulative usage signed by the meter; sequence 0 at 0 ms is the ready reading.

    A refused one is recorded, too. The same content again is the same attestation.
    """
    with edge.database.write() as store:
        row, refusal = edge.catalog.attestations.take(
            store, caller, lease_id, body.attestation, from_hex(body.signature, "/signature")
        )
    if refusal is not None:
        raise refused(refusal, row)
    answer = {"id": row.id, "sequence": row.sequence, "state": row.state, "code": row.code}
    return Reply(answer, 201).response()


@router.get(
    "/{lease_id}/attestations",
    operation_id="list_attestations",
    response_model=AttestationPage,
    responses=problems(*OWNED),
)
def attestations(
    edge: EdgeDep,
    caller: Anyone,
    lease_id: Id,
    after_sequence: Annotated[int | None, Query(ge=-1, le=2**32)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    """Attestations of a lease in order of arrival, with the vouchers that answered them."""
    service = edge.catalog.attestations
    with edge.database.read() as store:
        lease = party(store, caller, lease_id)
        after = -1 if after_sequence is None else after_sequence
        rows = store.attestations.page(lease.id, after, limit + 1, decode_cursor(cursor))
    return page(rows, limit, lambda row: row.id, service.to_json)


@router.post(
    "/{lease_id}/heartbeats",
    operation_id="heartbeat_lease",
    response_model=Heartbeat,
    responses=problems(*OWNED),
)
def heartbeats(
    edge: EdgeDep, caller: Provider, lease_id: Id, body: HeartbeatIn, write: WritingDep
) -> Any:
    """Forward a job's signs of life; liveness, not honesty."""
    service = edge.catalog.attestations
    return write.run(
        caller, lambda store: Reply(service.heartbeat(store, caller, lease_id, body.count))
    )


@router.post(
    "/{lease_id}/logs",
    operation_id="append_lease_log",
    response_model=LogAnswer,
    responses=problems(*OWNED),
)
def logs(edge: EdgeDep, caller: Provider, lease_id: Id, body: LogIn, write: WritingDep) -> Any:
    """Add output of a job; `offset` makes a repeat harmless."""
    streams = edge.catalog.streams

    def act(store: Store) -> Reply:
        return Reply(
            streams.append_log(store, caller, lease_id, body.stream, body.offset, body.text)
        )

    return write.run(caller, act)


@router.post(
    "/{lease_id}/finish",
    operation_id="finish_lease",
    response_model=Lease,
    responses=problems(
        *OWNED,
        "invalid_signature",
        "attestation_refused",
        "conflict",
        "idempotency_mismatch",
        "idempotency_in_flight",
    ),
)
def finish(edge: EdgeDep, caller: Provider, lease_id: Id, body: FinishIn, write: WritingDep) -> Any:
    """Report a job's end: outcome, last attestation, and the meter's half of the Close."""
    catalog = edge.catalog
    report = Report(
        outcome=body.outcome,
        exit_code=body.exit_code,
        reason=body.reason,
        outputs=body.outputs,
        attestation=body.attestation,
        signature=from_hex(body.signature, "/signature"),
        close=body.close.message,
        close_signature=from_hex(body.close.signature, "/close/signature"),
    )
    refusals: list[Exception] = []

    def act(store: Store) -> Reply:
        lease, row, refusal = catalog.ends.finish(store, caller, lease_id, report)
        if refusal is not None:
            refusals.append(refused(refusal, row))
            return Reply({}, 422)
        return Reply(catalog.leases.to_json(store, lease))

    response = write.run(caller, act, keep=lambda: not refusals)
    if refusals:
        raise refusals[0]
    return response


@router.post(
    "/{lease_id}/close",
    operation_id="close_lease",
    response_model=Lease,
    responses=problems(*OWNED, "invalid_signature", "conflict"),
)
def close(edge: EdgeDep, caller: Anyone, lease_id: Id, body: SignatureIn, write: WritingDep) -> Any:
    """Hand in the witness's half of the Close; both halves go to the chain."""
    catalog = edge.catalog
    signature = from_hex(body.signature, "/signature")

    def act(store: Store) -> Reply:
        lease = catalog.ends.close(store, caller, lease_id, signature)
        return Reply(catalog.leases.to_json(store, lease))

    return write.run(caller, act)


@router.post(
    "/{lease_id}/stop",
    operation_id="stop_lease",
    response_model=Lease,
    responses=problems(*OWNED, "invalid_signature", "conflict"),
)
def stop(edge: EdgeDep, caller: Anyone, lease_id: Id, body: StopIn, write: WritingDep) -> Any:
    """Hand in a Stop signed by witness or meter; it goes to the chain."""
    catalog = edge.catalog
    signature = from_hex(body.signature, "/signature")

    def act(store: Store) -> Reply:
        lease = catalog.ends.stop(store, caller, lease_id, body.stop, signature)
        return Reply(catalog.leases.to_json(store, lease))

    return write.run(caller, act)
