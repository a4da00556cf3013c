"""Leases: what meter and witness say to each other, and how a lease ends."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from marketplace.api.edge import (
    Anyone,
    Cursor,
    EdgeDep,
    Id,
    Limit,
    Provider,
    Reply,
    SoundRoute,
    Words,
    WritingDep,
    decode_cursor,
    page,
)
from marketplace.api.problems import AUTH, ONCE, OWNED, documented
from marketplace.db.store import Store
from marketplace.services.attestations import refused
from marketplace.services.leases import party
from marketplace.services.views import answer_view, attestation_view, heartbeat_view, lease_view
from marketplace.wire.base import Page
from marketplace.wire.leases import (
    Attestation,
    AttestationAnswer,
    FinishReport,
    Heartbeat,
    HeartbeatReport,
    Lease,
    LogChunk,
    LogPosition,
    SignedAttestation,
    SignedStop,
    WitnessSignature,
)

router = APIRouter(route_class=SoundRoute, prefix="/leases", tags=["leases"])


@router.get("", operation_id="list_leases", responses=documented(*AUTH))
def list_leases(
    edge: EdgeDep,
    caller: Anyone,
    role: Annotated[str | None, Query(pattern="^(provider|buyer|witness)$")] = None,
    state: Annotated[str | None, Words] = None,
    node_id: Annotated[str | None, Words] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[Lease]:
    """The caller's leases, newest first, by role, state and node."""
    leases, market = edge.catalog.leases, edge.catalog.market
    states = tuple(state.split(",")) if state else ()
    with edge.database.read() as store:
        rows = leases.find(store, caller, role, states, node_id, limit + 1, decode_cursor(cursor))
        return page(Page[Lease], rows, limit, lambda row: lease_view(store, market, row))


@router.get("/{lease_id}", operation_id="get_lease", responses=documented(*OWNED))
def get(edge: EdgeDep, caller: Anyone, lease_id: Id) -> Lease:
    """One lease, for its parties."""
    with edge.database.read() as store:
        return lease_view(store, edge.catalog.market, party(store, caller, lease_id))


@router.post(
    "/{lease_id}/attestations",
    status_code=201,
    operation_id="attest_usage",
    responses=documented(*OWNED, "attestation_refused"),
)
def attest(
    edge: EdgeDep, caller: Provider, lease_id: Id, body: SignedAttestation
) -> AttestationAnswer:
    """Hand in cumulative usage signed by the meter; sequence 0 at 0 ms is the ready reading.

    A refused one is recorded, too. The same content again is the same attestation.
    """
    with edge.database.write() as store:
        row, refusal = edge.catalog.attestations.take(store, caller, lease_id, body)
        answer = answer_view(row)
    if refusal is not None:
        raise refused(refusal, row)
    return answer


@router.get(
    "/{lease_id}/attestations", operation_id="list_attestations", responses=documented(*OWNED)
)
def attestations(
    edge: EdgeDep,
    caller: Anyone,
    lease_id: Id,
    after_sequence: Annotated[int | None, Query(ge=-1, le=2**32)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[Attestation]:
    """Attestations of a lease in order of arrival, with the vouchers that answered them."""
    with edge.database.read() as store:
        lease = party(store, caller, lease_id)
        after = -1 if after_sequence is None else after_sequence
        rows = store.attestations.page(lease.id, after, limit + 1, decode_cursor(cursor))
        return page(Page[Attestation], rows, limit, attestation_view)


@router.post(
    "/{lease_id}/heartbeats",
    operation_id="heartbeat_lease",
    response_model=Heartbeat,
    responses=documented(*OWNED, *ONCE),
)
def heartbeats(
    edge: EdgeDep, caller: Provider, lease_id: Id, body: HeartbeatReport, write: WritingDep
) -> Response:
    """Forward a job's signs of life; liveness, not honesty."""
    service = edge.catalog.attestations

    def act(store: Store) -> Reply:
        return Reply(heartbeat_view(service.heartbeat(store, caller, lease_id, body.count)))

    return write.run(caller, act)


@router.post(
    "/{lease_id}/logs",
    operation_id="append_lease_log",
    response_model=LogPosition,
    responses=documented(*OWNED, *ONCE),
)
def logs(
    edge: EdgeDep, caller: Provider, lease_id: Id, body: LogChunk, write: WritingDep
) -> Response:
    """Add output of a job; `offset` makes a repeat harmless."""
    streams = edge.catalog.streams

    def act(store: Store) -> Reply:
        return Reply(streams.append_log(store, caller, lease_id, body))

    return write.run(caller, act)


@router.post(
    "/{lease_id}/finish",
    operation_id="finish_lease",
    response_model=Lease,
    responses=documented(*OWNED, *ONCE, "invalid_signature", "attestation_refused", "conflict"),
)
def finish(
    edge: EdgeDep, caller: Provider, lease_id: Id, body: FinishReport, write: WritingDep
) -> Response:
    """Report a job's end: outcome, last attestation, and the meter's half of the Close."""
    catalog = edge.catalog
    refusals: list[Exception] = []

    def act(store: Store) -> Reply:
        lease, row, refusal = catalog.ends.finish(store, caller, lease_id, body)
        if refusal is not None:
            refusals.append(refused(refusal, row))
        return Reply(lease_view(store, catalog.market, lease))

    response = write.run(caller, act, keep=lambda: not refusals)
    if refusals:
        raise refusals[0]
    return response


@router.post(
    "/{lease_id}/close",
    operation_id="close_lease",
    response_model=Lease,
    responses=documented(*OWNED, *ONCE, "invalid_signature", "conflict"),
)
def close(
    edge: EdgeDep, caller: Anyone, lease_id: Id, body: WitnessSignature, write: WritingDep
) -> Response:
    """Hand in the witness's half of the Close; both halves go to the chain."""
    catalog = edge.catalog

    def act(store: Store) -> Reply:
        lease = catalog.ends.close(store, caller, lease_id, body.signature)
        return Reply(lease_view(store, catalog.market, lease))

    return write.run(caller, act)


@router.post(
    "/{lease_id}/stop",
    operation_id="stop_lease",
    response_model=Lease,
    responses=documented(*OWNED, *ONCE, "invalid_signature", "conflict"),
)
def stop(
    edge: EdgeDep, caller: Anyone, lease_id: Id, body: SignedStop, write: WritingDep
) -> Response:
    """Hand in a Stop signed by witness or meter; it goes to the chain."""
    catalog = edge.catalog

    def act(store: Store) -> Reply:
        lease = catalog.ends.stop(store, caller, lease_id, body)
        return Reply(lease_view(store, catalog.market, lease))

    return write.run(caller, act)
