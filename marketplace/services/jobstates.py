"""A job's steps from state to state, each told to whoever watches, and what it has cost so far."""

from __future__ import annotations

from dataclasses import replace

from marketplace.domain.advance import JOB_STEPS
from marketplace.domain.life import JOB_ENDED, JobState
from marketplace.errors import IllegalTransition
from marketplace.services.common import emit
from marketplace.services.ports import Market, Store
from marketplace.services.records import JobRecord, LeaseRecord
from marketplace.services.views import cost_view, status_view


def set_state(
    store: Store,
    job: JobRecord,
    state: str,
    now_ms: int,
    reason: str | None = None,
    detail: str | None = None,
) -> JobRecord:
    """Move a job to its next state, store it and tell its watchers. Raises IllegalTransition."""
    if state not in JOB_STEPS[JobState(job.state)]:
        raise IllegalTransition(f"a job that is {job.state} cannot become {state}")
    ended = state in JOB_ENDED
    job = replace(
        job,
        state=state,
        reason=reason,
        detail=detail,
        finished_ms=now_ms if ended else None,
        reserve=0 if ended else job.reserve,
    )
    store.jobs.put(job)
    if ended:
        job = recharge(store, job)
    tell(store, job, now_ms)
    return job


def recharge(store: Store, job: JobRecord) -> JobRecord:
    """Count an ended job against its key's spend cap at what it cost, or may still cost."""
    actual = committed(store, job.bid_id)
    key = store.keys.get(job.key_id, lock=True) if job.key_id else None
    if key is None or actual == job.key_charge:
        return job
    store.keys.put(replace(key, spent=max(0, key.spent - job.key_charge + actual)))
    job = replace(job, key_charge=actual)
    store.jobs.put(job)
    return job


def is_cancelled(store: Store, job: JobRecord) -> bool:
    """Whether the buyer made the job's bid void: it opens no further lease."""
    bid = store.bids.get(job.bid_id)
    return bid is not None and bid.cancelled_ms is not None


def committed(store: Store, bid_id: str) -> int:
    """Atoms that the opened leases of a bid have cost, or may still cost."""
    return sum(
        lease.released if lease.state == "closed" else lease.lock
        for lease in store.leases.find(bid_id=bid_id)
        if lease.opened_tx is not None
    )


def tell(store: Store, job: JobRecord, now_ms: int) -> None:
    """A `status` event of the job as it stands."""
    emit(store, job.id, "status", status_view(job), now_ms)


def cost_event(
    store: Store, market: Market, job: JobRecord, lease: LeaseRecord, now_ms: int
) -> None:
    """A `cost` event of the job's present lease."""
    emit(store, job.id, "cost", cost_view(store, market, job, lease), now_ms)
