"""What those who watch a job are told: how it stands, and what it has cost so far."""

from marketplace.db.store import Store
from marketplace.db.tables import JobRow, LeaseRow
from marketplace.domain.life import JobLife
from marketplace.services.common import emit
from marketplace.services.ports import Market
from marketplace.services.views import cost_view, status_view


def tell(store: Store, job_id: str, job: JobRow | JobLife, now_ms: int) -> None:
    """A `status` event of a job as it stands, or stood for a moment."""
    emit(store, job_id, "status", status_view(job), now_ms)


def cost_event(store: Store, market: Market, job: JobRow, lease: LeaseRow, now_ms: int) -> None:
    """A `cost` event of the job's present lease."""
    emit(store, job.id, "cost", cost_view(store, market, job, lease), now_ms)
