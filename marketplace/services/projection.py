"""What the chain's events mean for leases and jobs: each change of events is folded anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from marketplace.services.conclude import Conclusions
from marketplace.services.jobstates import cost_event, set_state, tell
from marketplace.services.leases import usage_json
from marketplace.services.orderlog import log_free
from marketplace.services.ports import Clock, Market, Store
from marketplace.services.records import JobRecord, LeaseRecord
from marketplace.services.reputation import judge
from settlement.events import Opened, Stopped
from settlement.leases import LeaseState, LeaseStatus, Params, fold
from settlement.ports import LoggedEvent

_STATES = {
    LeaseStatus.ACTIVE: "active",
    LeaseStatus.STOPPED: "stopped",
    LeaseStatus.CLOSED: "closed",
}


@dataclass(frozen=True, slots=True)
class Projection:
    """Called by the event store inside the transaction that changed the events."""

    market: Market
    clock: Clock
    conclusions: Conclusions

    def __call__(self, store: Store, lease_numbers: Sequence[str]) -> None:
        """Bring every touched lease of this market, and its job, up to date."""
        for number in lease_numbers:
            lease = store.leases.one(lease_no=number)
            if lease is None:
                continue  # opened by somebody else's orders
            locked = store.leases.get(lease.id, lock=True)
            if locked is not None:
                self._project(store, locked, store.chain_events(number))

    def _project(self, store: Store, lease: LeaseRecord, events: Sequence[LoggedEvent]) -> None:
        state = fold(logged.event for logged in events)
        job = store.jobs.get(lease.job_id, lock=True)
        if job is None:
            raise KeyError(lease.job_id)
        if state is None:
            self._unopened(store, lease, job)
            return
        new = self._updated(lease, state, events)
        store.leases.put(new)
        self._mark_paid(store, new)
        if lease.state in ("opening", "failed_to_open") and new.opened_tx is not None:
            job = self._opened(store, new, job)
            new = store.leases.get(new.id) or new
        if new.settled != lease.settled or new.state != lease.state:
            cost_event(store, self.market, job, new, self.clock())
        if new.state == "closed" and lease.state != "closed":
            log_free(store, new.bid_id, new.ask_id, self.clock())
        if new.state in ("stopped", "closed") and new.state != lease.state:
            judge(store, new.provider, self.clock())
            self.conclusions.over(store, new)

    def _updated(
        self, lease: LeaseRecord, state: LeaseState, events: Sequence[LoggedEvent]
    ) -> LeaseRecord:
        params = Params(self.market.decimals, self.market.fee_bps)
        first = next(x for x in events if isinstance(x.event, Opened))
        last = events[-1]
        closed = state.status is LeaseStatus.CLOSED
        unlocked = sum(x.event.unlocked for x in events if isinstance(x.event, Stopped))
        return replace(
            lease,
            state=_STATES[state.status],
            start_s=state.start,
            end_s=state.end,
            funded_seconds=state.funded,
            lock=state.lock(params),
            settled=usage_json(state.used_ms, state.egress_mib, state.units),
            released=state.released(params),
            refunded=unlocked + state.refunded,
            seen_ms=lease.seen_ms or self.clock(),
            opened_tx=first.tx_hash,
            closed_tx=last.tx_hash if closed else None,
            closed_ms=(lease.closed_ms or self.clock()) if closed else None,
        )

    def _opened(self, store: Store, lease: LeaseRecord, job: JobRecord) -> JobRecord:
        now_ms = self.clock()
        if job.lease_id != lease.id:  # the opening was given up, and its job has gone on
            store.leases.put(replace(lease, stop_requested="cancelled", stop_requested_ms=now_ms))
            return job
        job = replace(job, reserve=0)
        if job.state == "matched":
            job = set_state(store, job, "starting", now_ms)
        else:
            store.jobs.put(job)
        if job.ending == "cancelled":
            store.leases.put(replace(lease, stop_requested="cancelled", stop_requested_ms=now_ms))
        return job

    def _unopened(self, store: Store, lease: LeaseRecord, job: JobRecord) -> None:
        """A reorg took the opening away; the relayer brings the same bytes back."""
        store.leases.put(
            replace(
                lease,
                state="opening",
                start_s=None,
                end_s=None,
                opened_tx=None,
                settled={},
                released=0,
                refunded=0,
            )
        )
        if job.lease_id == lease.id and job.state == "starting":
            job = replace(job, state="matched", reserve=lease.lock)
            store.jobs.put(job)
            tell(store, job, self.clock())

    def _mark_paid(self, store: Store, lease: LeaseRecord) -> None:
        best = store.vouchers.get(lease.id, lock=True)
        if best is None:
            return
        settled = {**usage_json(), **lease.settled}
        covered = (
            settled["ms"] >= best.ms
            and (not lease.metered or settled["egress_mib"] >= best.egress_mib)
            and (not lease.metered or settled["units"] >= best.units)
        )
        # A voucher above the funded time is paid up to it, and then there is no more to pay.
        full = settled["ms"] >= lease.funded_seconds * 1000 and not lease.metered
        paid = covered or full or lease.state == "closed"
        if best.paid != paid:
            store.vouchers.put(replace(best, paid=paid))
