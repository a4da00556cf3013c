"""What those who watch a job are told: how it stands, and what it has cost so far."""

from __future__ import annotations

from typing import Any

from marketplace.db.store import Store
from marketplace.db.tables import JobRow, LeaseRow
from marketplace.domain.life import JobLife
from marketplace.domain.pricing import rate_per_hour
from marketplace.services.common import emit, iso, money
from marketplace.services.leases import billed, cost_now
from marketplace.services.ports import Market
from settlement.units import cost


def tell(store: Store, job_id: str, job: JobRow | JobLife, now_ms: int) -> None:
    """A `status` event of a job as it stands, or stood for a moment."""
    data = {
        "state": job.state,
        "reason": job.reason,
        "detail": job.detail,
        "exit_code": job.exit_code,
        "ending": job.ending,
        "lease_id": job.lease_id,
        "at": iso(now_ms),
    }
    emit(store, job_id, "status", data, now_ms)


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
