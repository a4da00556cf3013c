"""A job's steps from state to state, each told to whoever watches, and what it has cost so far."""

from __future__ import annotations

from marketplace.db.store import Store
from marketplace.db.tables import JOB_ENDED, JobRow, LeaseRow
from marketplace.domain.advance import JOB_STEPS
from marketplace.domain.life import JobState
from marketplace.errors import IllegalTransition
from marketplace.services.common import emit
from marketplace.services.ports import Market
from marketplace.services.views import cost_view, status_view


def set_state(
    store: Store,
    job: JobRow,
    state: str,
    now_ms: int,
    reason: str | None = None,
    detail: str | None = None,
) -> None:
    """Move a job to its next state and tell its watchers. Raises IllegalTransition."""
    if state not in JOB_STEPS[JobState(job.state)]:
        raise IllegalTransition(f"a job that is {job.state} cannot become {state}")
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
    emit(store, job.id, "status", status_view(job), now_ms)


def cost_event(store: Store, market: Market, job: JobRow, lease: LeaseRow, now_ms: int) -> None:
    """A `cost` event of the job's present lease."""
    emit(store, job.id, "cost", cost_view(store, market, job, lease), now_ms)
