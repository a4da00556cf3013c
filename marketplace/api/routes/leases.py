"""Leases: what meter and witness say to each other, and how a lease ends."""

from typing import Annotated

from fastapi import Query, Response

from marketplace.api.edge import (
    Anyone,
    Buyer,
    EdgeDep,
    Id,
    Paged,
    Provider,
    Routes,
    Words,
    WritingDep,
)
from marketplace.api.problems import AUTH, ONCE, OWNED
from marketplace.db.store import Store
from marketplace.services.attestations import refused
from marketplace.services.leases import party
from marketplace.services.views import answer_of, attestation_view, heartbeat_view, lease_view
from marketplace.wire.base import Page
from marketplace.wire.leases import (
    Attestation,
    AttestationAnswer,
    Countersignature,
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

routes = Routes()
SIGNED = (*OWNED, "invalid_signature", "conflict")
FINISHED = (*OWNED, *ONCE, "invalid_signature", "attestation_refused", "conflict")


@routes.reads("GET /leases", "list_leases", *AUTH)
def list_leases(
    edge: EdgeDep,
    store: Store,
    caller: Anyone,
    paging: Paged,
    role: Annotated[str | None, Query(pattern="^(provider|buyer|witness)$")] = None,
    state: Words = None,
    node_id: Words = None,
) -> Page[Lease]:
    """The caller's leases, newest first, by role, state and node."""
    states = tuple(state.split(",")) if state else ()
    rows = edge.catalog.leases.find(store, caller, role, states, node_id, paging.wanted)
    return paging.page(Page[Lease], rows, lambda row: lease_view(store, edge.catalog.market, row))


@routes.reads("GET /leases/{lease_id}", "get_lease", *OWNED)
def get(edge: EdgeDep, store: Store, caller: Anyone, lease_id: Id) -> Lease:
    """One lease, for its parties."""
    return lease_view(store, edge.catalog.market, party(store, caller, lease_id))


@routes.on(
    "POST /leases/{lease_id}/attestations",
    "attest_usage",
    *OWNED,
    "attestation_refused",
    status_code=201,
)
def attest(
    edge: EdgeDep, caller: Provider, lease_id: Id, body: SignedAttestation
) -> AttestationAnswer:
    """Hand in cumulative usage signed by the meter; sequence 0 at 0 ms is the ready reading.

    A refused one is recorded, too. The same content again is the same attestation.
    """
    with edge.database.write() as store:
        row, refusal = edge.catalog.attestations.take(store, caller, lease_id, body)
        answer = answer_of(AttestationAnswer, row)
    if refusal is not None:
        raise refused(refusal, row)
    return answer


@routes.reads("GET /leases/{lease_id}/attestations", "list_attestations", *OWNED)
def attestations(
    edge: EdgeDep,
    store: Store,
    caller: Anyone,
    lease_id: Id,
    paging: Paged,
    after_sequence: Annotated[int | None, Query(ge=-1, le=2**32)] = None,
) -> Page[Attestation]:
    """Attestations of a lease in order of arrival, with the vouchers that answered them."""
    lease = party(store, caller, lease_id)
    after = -1 if after_sequence is None else after_sequence
    rows = store.attestations.page(lease.id, after, paging.wanted)
    return paging.page(Page[Attestation], rows, attestation_view)


@routes.writes(
    "POST /attestations/{attestation_id}/countersign", "countersign_attestation", *SIGNED
)
def countersign(
    edge: EdgeDep, store: Store, caller: Buyer, attestation_id: Id, body: Countersignature
) -> Attestation:
    """Answer an attestation with the witness's voucher; it is durable when this answers."""
    row = edge.catalog.attestations.countersign(store, caller, attestation_id, body)
    return attestation_view(row)


@routes.writes("POST /leases/{lease_id}/heartbeats", "heartbeat_lease", *OWNED)
def heartbeats(
    edge: EdgeDep, store: Store, caller: Provider, lease_id: Id, body: HeartbeatReport
) -> Heartbeat:
    """Forward a job's signs of life; liveness, not honesty."""
    return heartbeat_view(edge.catalog.attestations.heartbeat(store, caller, lease_id, body.count))


@routes.writes("POST /leases/{lease_id}/logs", "append_lease_log", *OWNED)
def logs(
    edge: EdgeDep, store: Store, caller: Provider, lease_id: Id, body: LogChunk
) -> LogPosition:
    """Add output of a job; `offset` makes a repeat harmless."""
    return edge.catalog.leases.append_log(store, caller, lease_id, body)


@routes.on("POST /leases/{lease_id}/finish", "finish_lease", *FINISHED, response_model=Lease)
def finish(
    edge: EdgeDep, caller: Provider, lease_id: Id, body: FinishReport, write: WritingDep
) -> Response:
    """Report a job's end: outcome, last attestation, and the meter's half of the Close."""
    refusals: list[Exception] = []

    def act(store: Store) -> Lease:
        lease, row, refusal = edge.catalog.ends.finish(store, caller, lease_id, body)
        if refusal is not None:
            refusals.append(refused(refusal, row))
        return lease_view(store, edge.catalog.market, lease)

    response = write.run(caller, act, keep=lambda: not refusals)
    if refusals:
        raise refusals[0]
    return response


@routes.writes("POST /leases/{lease_id}/close", "close_lease", *SIGNED)
def close(
    edge: EdgeDep, store: Store, caller: Anyone, lease_id: Id, body: WitnessSignature
) -> Lease:
    """Hand in the witness's half of the Close; both halves go to the chain."""
    lease = edge.catalog.ends.close(store, caller, lease_id, body.signature)
    return lease_view(store, edge.catalog.market, lease)


@routes.writes("POST /leases/{lease_id}/stop", "stop_lease", *SIGNED)
def stop(edge: EdgeDep, store: Store, caller: Anyone, lease_id: Id, body: SignedStop) -> Lease:
    """Hand in a Stop signed by witness or meter; it goes to the chain."""
    lease = edge.catalog.ends.stop(store, caller, lease_id, body)
    return lease_view(store, edge.catalog.market, lease)
