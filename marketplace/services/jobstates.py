"""A job's steps from state to state, each told to whoever watches, and what it has cost so far."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from marketplace.domain.advance import JOB_STEPS
from marketplace.domain.life import JOB_ENDED, JobState
from marketplace.domain.pricing import rate_per_hour
from marketplace.errors import IllegalTransition
from marketplace.services.common import emit, iso, money
from marketplace.services.leases import billed, cost_now
from marketplace.services.ports import Market, Store
from marketplace.services.records import JobRecord, LeaseRecord
from settlement.units import cost


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
    data = {
        "state": job.state,
        "reason": job.reason,
        "detail": job.detail,
        "exit_code": job.exit_code,
        "ending": job.ending,
        "lease_id": job.lease_id,
        "at": iso(now_ms),
    }
    emit(store, job.id, "status", data, now_ms)


def cost_of(market: Market, job: JobRecord, lease: LeaseRecord, budget: int) -> dict[str, Any]:
    """Accrued, rate per hour, locked, projected at the maximum duration, and budget left."""
    used = cost_now(market, lease)
    longest_ms = min(lease.max_seconds, lease.funded_seconds) * 1000
    projected = cost(lease.rate, longest_ms, market.decimals)
    return {
        "accrued": money(market, used),
        "rate_per_hour": rate_per_hour(lease.rate),
        "locked": money(market, lease.lock),
        "projected": money(market, projected),
        "budget_left": money(market, max(0, budget - job.spent - used)),
        "ms": int(billed(lease).get("ms", 0)),
    }


def cost_event(
    store: Store, market: Market, job: JobRecord, lease: LeaseRecord, now_ms: int
) -> None:
    """A `cost` event of the job's present lease."""
    bid = store.bids.get(job.bid_id)
    budget = int(bid.message["budget"]) if bid else 0
    emit(store, job.id, "cost", cost_of(market, job, lease, budget), now_ms)
