"""Buying the jobs and following each to its end on chain."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from marketplace.sdk import Job, JobHandle, JobReceipt, Lease, Receipt
from scripts.demo_lib.cases import Case
from scripts.demo_lib.children import DemoError
from scripts.demo_lib.people import Buyer

LOOK_SECONDS = 0.4
LIMIT_SECONDS = 210.0


@dataclass(slots=True)
class Purchase:
    """One job that was bought. `receipt` is None if nothing was leased."""

    case: Case
    buyer: Buyer
    handle: JobHandle
    lease: Lease | None = None
    receipt: JobReceipt | None = None
    cancelled: bool = False
    lost: Lease | None = None
    is_over: bool = False

    @property
    def job(self) -> Job:
        """The job as last seen."""
        return self.handle.job

    @property
    def outcome(self) -> str:
        """State and reason in words."""
        job = self.job
        reason = f" ({job.reason})" if job.reason else ""
        code = f", exit code {job.exit_code}" if job.exit_code else ""
        return f"{job.state}{reason}{code}"

    def problems(self) -> list[str]:
        """What is wrong with it."""
        job, case = self.job, self.case
        found = []
        if job.state != case.state:
            found.append(f"{case.name}: {self.outcome} instead of {case.state}")
        if case.reason is not None and job.reason != case.reason:
            found.append(f"{case.name}: the reason is {job.reason!r} instead of {case.reason!r}")
        if case.exit_code is not None and job.exit_code != case.exit_code:
            found.append(f"{case.name}: exit code {job.exit_code} instead of {case.exit_code}")
        if case.state == "no_match":
            if not (job.no_match and job.no_match.relaxations):
                found.append(f"{case.name}: was not told why nothing matched and what would")
        elif self.receipt is None:
            found.append(f"{case.name}: has no receipt")
        if case.lose_at_ms is not None and len(self.receipts) != 2:
            found.append(f"{case.name}: had {len(self.receipts)} leases instead of 2")
        return found

    def see(self, job: Job) -> None:
        """Update its state, cancel it if that is due, and fetch the receipt at its end."""
        self.handle.job = job
        self._cancel_if_due(job)
        if not job.is_final:
            return
        self.lease = self.handle.lease()
        if self.lease is None:
            self.is_over = True
        elif self.lease.state == "closed":
            self.receipt = self.handle.receipt()
            # A lost lease is refunded after the settle window; only then is its receipt written.
            self.is_over = self.lost is None or bool(self.receipt.earlier)

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """Of all of its leases, those that were lost first."""
        return () if self.receipt is None else (*self.receipt.earlier, self.receipt)

    def loses_node(self) -> Lease | None:
        """The lease whose node is to be lost now, once."""
        due, cost = self.case.lose_at_ms, self.job.cost
        if due is None or self.lost or cost is None or self.job.state != "running":
            return None
        if cost.ms < due:
            return None
        self.lost = self.handle.lease()
        return self.lost

    def _cancel_if_due(self, job: Job) -> None:
        due = self.case.cancel_at_ms
        if due is None or self.cancelled or job.cost is None or job.state != "running":
            return
        if job.cost.ms >= due:
            self.handle.cancel()
            self.cancelled = True


def buy(case: Case, buyers: Mapping[str, Buyer]) -> Purchase:
    """Sign a job's bid and buy it."""
    buyer = buyers[case.buyer]
    return Purchase(case, buyer, buyer.client.jobs.submit(case.spec()))


def look(purchases: Sequence[Purchase]) -> None:
    """Update all jobs with one request per buyer."""
    waiting = {p.job.id: p for p in purchases if not p.is_over}
    for client in {id(p.buyer): p.buyer.client for p in waiting.values()}.values():
        for job in client.jobs.list(limit=100):
            if job.id in waiting:
                waiting[job.id].see(job)


def follow(purchases: list[Purchase], watch: Callable[[], None], check: Callable[[], None]) -> None:
    """Wait until every lease is closed on chain. `check` raises if a program died; so does a job
    that takes too long (DemoError).
    """
    until = time.monotonic() + LIMIT_SECONDS
    while True:
        look(purchases)
        watch()
        waiting = [p for p in purchases if not p.is_over]
        if not waiting:
            return
        check()
        if time.monotonic() > until:
            names = ", ".join(f"{p.case.name} ({p.outcome})" for p in waiting)
            raise DemoError(f"not over after {LIMIT_SECONDS:g} s: {names}")
        time.sleep(LOOK_SECONDS)
