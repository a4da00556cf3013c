"""How a job ends once its lease is over, or begins anew on the next ask; and its receipt."""

from __future__ import annotations

from dataclasses import dataclass, replace

from marketplace.db.store import Store
from marketplace.db.tables import JOB_ENDED, JobRow, LeaseRow, ReceiptRow
from marketplace.domain.job import JobSpec, full_budget
from marketplace.domain.jobfile import parse_job
from marketplace.domain.order import Wants
from marketplace.domain.tier import TierRegistry
from marketplace.services.common import emit, new_id
from marketplace.services.jobstates import is_cancelled, recharge, set_state, tell
from marketplace.services.orderlog import log_bid
from marketplace.services.ports import Clock, Market
from marketplace.services.views import new_receipt
from settlement.orders import Bid

RETRY_SECONDS_DEFAULT = 3_600


@dataclass(frozen=True, slots=True)
class Conclusions:
    """What follows from a lease being over on chain."""

    market: Market
    clock: Clock
    tiers: TierRegistry

    def over(self, store: Store, lease: LeaseRow) -> None:
        """A lease was stopped or closed: end its job or queue it again; write the receipt."""
        job = store.jobs.need(lease.job_id, lock=True)
        if job.lease_id == lease.id and job.state not in (*JOB_ENDED, "queued"):
            self.end(store, job, lease)
        elif job.requeue_after == lease.id and job.state == "queued":
            self.resume(store, job)
        if lease.state == "closed":
            self._receipt(store, lease)
            if job.state in JOB_ENDED:
                recharge(store, job)

    def end(self, store: Store, job: JobRow, lease: LeaseRow) -> None:
        """Give a job the outcome that its agent reported, or that its lease's end implies."""
        now_ms = self.clock()
        report = lease.outcome or {}
        outcome = report.get("outcome") or job.ending or "cancelled"
        reason = report.get("reason") or job.reason or lease.stop_requested
        if not report and job.ending is None:
            reason = "lease_stopped"  # by a party's own transaction, past this server
        job.exit_code, job.outputs = report.get("exit_code"), report.get("outputs")
        job.reason = reason
        if self._retries(store, job, outcome):
            self.requeue(store, job, lease, outcome)
            return
        if job.state == "matched":
            set_state(store, job, "starting", now_ms)
        if outcome == "over_budget" and job.state == "starting":
            set_state(store, job, "running", now_ms)
        set_state(store, job, str(outcome), now_ms, reason)

    def _retries(self, store: Store, job: JobRow, outcome: str) -> bool:
        if is_cancelled(store, job):
            return False
        event = {"lost": "interruption", "failed": "error"}.get(outcome)
        retry = job.spec.get("retry", {})
        if event is None or event not in retry.get("on_events", []):
            return False
        return job.retry_until_ms is None or self.clock() < job.retry_until_ms

    def requeue(self, store: Store, job: JobRow, lease: LeaseRow, outcome: str) -> None:
        """Send a job to the next ask with the budget its earlier leases leave over."""
        now_ms = self.clock()
        spec = self._spec(job)
        if job.state != "lost":
            if job.state == "running":  # the state machine goes through lost
                set_state(store, job, "lost", now_ms, job.reason or outcome)
            elif job.state == "matched":
                set_state(store, job, "starting", now_ms)
        seconds = spec.retry_seconds or RETRY_SECONDS_DEFAULT
        job.ending, job.requeue_after = None, lease.id
        job.retry_until_ms = job.retry_until_ms or now_ms + seconds * 1000
        set_state(store, job, "queued", now_ms, outcome, "looking for another ask")
        if lease.state in ("stopped", "closed", "failed_to_open"):
            self.resume(store, job)

    def queue_again(self, store: Store, job_id: str) -> None:
        """Put a queued job's bid back on the book after an opening that never was."""
        job = store.jobs.need(job_id, lock=True)
        spec = self._spec(job)
        now_ms = self.clock()
        if is_cancelled(store, job):
            set_state(store, job, "cancelled", now_ms, "order_cancelled")
            return
        until_ms = job.retry_until_ms or job.rest_until_ms or now_ms
        rests = spec.rests or job.retry_until_ms is not None
        self._log(store, job, until_ms, rests)

    def resume(self, store: Store, job: JobRow) -> None:
        """Put the bid back on the book; the chain demands that its last lease is over."""
        job.requeue_after = None
        if is_cancelled(store, job):
            set_state(store, job, "cancelled", self.clock(), "order_cancelled")
            return
        self._log(store, job, job.retry_until_ms or self.clock(), True)

    def _log(self, store: Store, job: JobRow, until_ms: int, rests: bool) -> None:
        now_ms = self.clock()
        bid_row = store.bids.need(job.bid_id)
        bid = Bid.from_message(bid_row.message)
        job.spent = store.leases.committed_atoms(job.bid_id)
        left = max(0, bid.budget - job.spent)
        job.reserve = min(left, full_budget(self._spec(job)))
        tell(store, job, now_ms)
        wants = replace(
            Wants.of(self._spec(job)),
            rests=rests,
            start_deadline_seconds=max(1, (until_ms - now_ms) // 1000),
        )
        log_bid(store, bid_row, job, wants, left, now_ms)

    def _spec(self, job: JobRow) -> JobSpec:
        return parse_job(job.spec, packed=True, tiers=self.tiers)

    def _receipt(self, store: Store, lease: LeaseRow) -> None:
        if store.receipts.is_written(lease.id):
            return
        now_ms = self.clock()
        receipt = new_receipt(store, self.market, lease, new_id("rcpt"), now_ms)
        store.receipts.add(
            ReceiptRow(
                id=receipt.id,
                job_id=lease.job_id,
                lease_id=lease.id,
                buyer=lease.buyer,
                provider=lease.provider,
                document=receipt.to_json(),
                created_ms=now_ms,
            )
        )
        emit(store, lease.job_id, "receipt", receipt, now_ms)
