"""What the chain's events mean for leases and jobs: each change of events is folded anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from marketplace.db.store import Store
from marketplace.db.tables import JobRow, LeaseRow
from marketplace.services.conclude import Conclusions
from marketplace.services.jobstates import cost_event, set_state, tell
from marketplace.services.leases import usage_json
from marketplace.services.orderlog import log_free
from marketplace.services.ports import Clock, Market
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
            lease = store.leases.by_number(number, lock=True)
            if lease is not None:  # else opened by somebody else's orders
                self._project(store, lease, store.chain_events(number))

    def _project(self, store: Store, lease: LeaseRow, events: Sequence[LoggedEvent]) -> None:
        state = fold(logged.event for logged in events)
        job = store.jobs.need(lease.job_id, lock=True)
        if state is None:
            self._unopened(store, lease, job)
            return
        old_state, old_settled = lease.state, lease.settled
        self._update(lease, state, events)
        self._mark_paid(store, lease)
        if old_state in ("opening", "failed_to_open"):
            self._opened(store, lease, job)
        if (lease.settled, lease.state) != (old_settled, old_state):
            cost_event(store, self.market, job, lease, self.clock())
        if lease.state == "closed" and old_state != "closed":
            log_free(store, lease.bid_id, lease.ask_id, self.clock())
        if lease.state in ("stopped", "closed") and lease.state != old_state:
            judge(store, lease.provider, self.clock())
            self.conclusions.over(store, lease)

    def _update(self, lease: LeaseRow, state: LeaseState, events: Sequence[LoggedEvent]) -> None:
        params = Params(self.market.decimals, self.market.fee_bps)
        first = next(x for x in events if isinstance(x.event, Opened))
        last = events[-1]
        closed = state.status is LeaseStatus.CLOSED
        unlocked = sum(x.event.unlocked for x in events if isinstance(x.event, Stopped))
        lease.state = _STATES[state.status]
        lease.start_s, lease.end_s = state.start, state.end
        lease.funded_seconds, lease.lock = state.funded, state.lock(params)
        lease.settled = usage_json(state.used_ms, state.egress_mib, state.units)
        lease.released, lease.refunded = state.released(params), unlocked + state.refunded
        lease.seen_ms = lease.seen_ms or self.clock()
        lease.opened_tx, lease.closed_tx = first.tx_hash, last.tx_hash if closed else None
        lease.closed_ms = (lease.closed_ms or self.clock()) if closed else None

    def _opened(self, store: Store, lease: LeaseRow, job: JobRow) -> None:
        now_ms = self.clock()
        given_up = job.lease_id != lease.id  # and its job has gone on
        if not given_up:
            job.reserve = 0
            if job.state == "matched":
                set_state(store, job, "starting", now_ms)
        if given_up or job.ending == "cancelled":
            lease.stop_requested, lease.stop_requested_ms = "cancelled", now_ms

    def _unopened(self, store: Store, lease: LeaseRow, job: JobRow) -> None:
        """A reorg took the opening away; the relayer brings the same bytes back."""
        lease.state = "opening"
        lease.start_s = lease.end_s = lease.opened_tx = None
        lease.settled, lease.released, lease.refunded = {}, 0, 0
        if job.lease_id == lease.id and job.state == "starting":
            job.state, job.reserve = "matched", lease.lock
            tell(store, job, self.clock())

    def _mark_paid(self, store: Store, lease: LeaseRow) -> None:
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
        best.paid = covered or full or lease.state == "closed"
