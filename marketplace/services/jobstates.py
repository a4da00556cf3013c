"""A job's steps from state to state, each told to whoever watches, and what it has cost so far."""

from __future__ import annotations

from typing import Any

from marketplace.db.store import Store
from marketplace.db.tables import JOB_ENDED, JobRow, LeaseRow
from marketplace.domain.job import JobState, step
from marketplace.domain.pricing import rate_per_hour
from marketplace.services.common import emit, iso, money
from marketplace.services.leases import billed, cost_now
from marketplace.services.ports import Market
from settlement.units import cost


def set_state(
    store: Store,
    job: JobRow,
    state: str,
    now_ms: int,
    reason: str | None = None,
    detail: str | None = None,
) -> None:
    """Move a job to its next state and tell its watchers. Raises IllegalTransition."""
    step(JobState(job.state), JobState(state))
    ended = state in JOB_ENDED
    job.state, job.reason, job.detail = state, reason, detail
    job.finished_ms = now_ms if ended else None
    if ended:
        job.reserve = 0
        recharge(store, job)
    tell(store, job, now_ms)


def recharge(store: Store, job: JobRow) -> None:
    """Count an ended job against its key's spend cap at what it cost, or may still cost."""
    actual = store.leases.committed_atoms(job.bid_id)
    key = store.keys.get(job.key_id, lock=True)
    if key is None or actual == job.key_charge:
        return
    key.spent = max(0, key.spent - job.key_charge + actual)
    job.key_charge = actual


def is_cancelled(store: Store, job: JobRow) -> bool:
    """Whether the buyer made the job's bid void: it opens no further lease."""
    return store.bids.need(job.bid_id, lock=True).cancelled_ms is not None


def tell(store: Store, job: JobRow, now_ms: int) -> None:
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


def cost_of(market: Market, job: JobRow, lease: LeaseRow, budget: int) -> dict[str, Any]:
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


def cost_event(store: Store, market: Market, job: JobRow, lease: LeaseRow, now_ms: int) -> None:
    """A `cost` event of the job's present lease."""
    bid = store.bids.get(job.bid_id)
    budget = int(bid.message["budget"]) if bid else 0
    emit(store, job.id, "cost", cost_of(market, job, lease, budget), now_ms)
