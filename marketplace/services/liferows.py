"""Rows of jobs and leases as lives, and back; and what the chain says of a lease as facts."""

from dataclasses import asdict
from typing import Any

from marketplace.db.tables import BidRow, JobRow, LeaseRow
from marketplace.domain.advance import (
    EndReverted,
    Fact,
    LeaseClosed,
    LeaseOpened,
    LeaseStopped,
    OpeningReverted,
)
from marketplace.domain.life import (
    JobLife,
    LeaseLife,
    LeaseState,
    Outcome,
    Retry,
    RetryOn,
    RunReport,
)
from marketplace.domain.reader import seconds_of
from settlement.leases import LeaseStatus

_ON_CHAIN = {
    LeaseStatus.ACTIVE: LeaseState.ACTIVE,
    LeaseStatus.STOPPED: LeaseState.STOPPED,
    LeaseStatus.CLOSED: LeaseState.CLOSED,
}
_ORDER = tuple(_ON_CHAIN.values())


def chain_facts(known: LeaseState, chain: LeaseStatus | None) -> tuple[Fact, ...]:
    """What happened to a lease, if it was known as `known` and the chain has it as `chain`."""
    if chain is None:
        return (OpeningReverted(),)
    now, opened = _ON_CHAIN[chain], known not in _ORDER
    before = LeaseState.ACTIVE if opened else known
    facts: tuple[Fact, ...] = (LeaseOpened(),) if opened else ()
    if _ORDER.index(now) < _ORDER.index(before):
        return (*facts, EndReverted(now))
    if now is before:
        return facts
    return (*facts, LeaseStopped() if now is LeaseState.STOPPED else LeaseClosed())


def job_life(job: JobRow, bid: BidRow) -> JobLife:
    """A job's row as its life."""
    return JobLife(
        state=job.state,
        lease_id=job.lease_id,
        ending=job.ending,
        reason=job.reason,
        detail=job.detail,
        requeue_after=job.requeue_after,
        excluded=tuple(job.excluded),
        exit_code=job.exit_code,
        outputs=job.outputs,
        reserve=job.reserve,
        rest_until_ms=job.rest_until_ms,
        retry_until_ms=job.retry_until_ms,
        matched_ms=job.matched_ms,
        started_ms=job.started_ms,
        finished_ms=job.finished_ms,
        retry=_retry(job.spec.get("retry")),
        void=bid.cancelled_ms is not None,
    )


def _retry(document: dict[str, Any] | None) -> Retry:
    if not document:
        return Retry()
    events = tuple(RetryOn(event) for event in document["on_events"])
    return Retry(events, seconds_of(document["duration"]))


def lease_life(lease: LeaseRow) -> LeaseLife:
    """A lease's row as its life."""
    report = lease.outcome
    return LeaseLife(
        id=lease.id,
        state=lease.state,
        lock=lease.lock,
        budget_limited=lease.budget_limited,
        reason=lease.reason,
        ready_ms=lease.ready_ms,
        stop_requested=lease.stop_requested,
        stop_requested_ms=lease.stop_requested_ms,
        stop_signed=lease.stop_signature is not None,
        report=RunReport(**{**report, "outcome": Outcome(report["outcome"])}) if report else None,
        finished_ms=lease.finished_ms,
    )


def write_job(job: JobRow, bid: BidRow, life: JobLife, now_ms: int) -> None:
    """A life written back onto its rows."""
    job.state, job.lease_id, job.ending = life.state, life.lease_id, life.ending
    job.reason, job.detail = life.reason, life.detail
    job.requeue_after, job.excluded = life.requeue_after, list(life.excluded)
    job.exit_code, job.outputs, job.reserve = life.exit_code, life.outputs, life.reserve
    job.retry_until_ms, job.matched_ms = life.retry_until_ms, life.matched_ms
    job.started_ms, job.finished_ms = life.started_ms, life.finished_ms
    if life.void and bid.cancelled_ms is None:
        bid.cancelled_ms = now_ms


def write_lease(lease: LeaseRow, life: LeaseLife) -> None:
    """A life written back onto its row. Signatures are written by whoever brings them."""
    lease.state, lease.reason, lease.ready_ms = life.state, life.reason, life.ready_ms
    lease.stop_requested = life.stop_requested
    lease.stop_requested_ms = life.stop_requested_ms
    lease.outcome = asdict(life.report) if life.report else None
    lease.finished_ms = life.finished_ms
