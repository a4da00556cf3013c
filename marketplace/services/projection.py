"""What the chain's events mean for leases and jobs: each change of events is folded anew."""

from collections.abc import Sequence
from dataclasses import dataclass

from marketplace.db.store import Store
from marketplace.db.tables import LeaseRow
from marketplace.domain.life import LeaseState
from marketplace.services.jobstates import cost_event
from marketplace.services.leases import usage_json
from marketplace.services.liferows import chain_facts
from marketplace.services.lives import Lives
from marketplace.services.ports import Clock, Market
from settlement.events import Opened, Stopped
from settlement.leases import ChainLease, LeaseStatus, Params, fold
from settlement.ports import LoggedEvent


@dataclass(frozen=True, slots=True)
class Projection:
    """Called by the event store inside the transaction that changed the events."""

    market: Market
    clock: Clock
    lives: Lives

    def __call__(self, store: Store, lease_numbers: Sequence[str]) -> None:
        """Bring every touched lease of this market, and its job, up to date."""
        for number in lease_numbers:
            lease = store.leases.by_number(number, lock=True)
            if lease is not None:  # else opened by somebody else's orders
                self._project(store, lease, store.chain_events(number))

    def _project(self, store: Store, lease: LeaseRow, events: Sequence[LoggedEvent]) -> None:
        chain = fold(logged.event for logged in events)
        job, settled = store.jobs.need(lease.job_id, lock=True), lease.settled
        if chain is None:
            _forget(lease)
        else:
            self._update(lease, chain, events)
        facts = chain_facts(lease.state, chain.status if chain else None)
        for fact in facts:
            self.lives.take(store, job, lease, fact)
        self._mark_paid(store, lease)
        if chain is not None and not facts and lease.settled != settled:
            cost_event(store, self.market, job, lease, self.clock())

    def _update(self, lease: LeaseRow, chain: ChainLease, events: Sequence[LoggedEvent]) -> None:
        params = Params(self.market.decimals, self.market.fee_bps)
        first = next(x for x in events if isinstance(x.event, Opened))
        last = events[-1]
        closed = chain.status is LeaseStatus.CLOSED
        unlocked = sum(x.event.unlocked for x in events if isinstance(x.event, Stopped))
        lease.start_s, lease.end_s = chain.start, chain.end
        lease.funded_seconds, lease.lock = chain.funded, chain.lock(params)
        lease.settled = usage_json(chain.used_ms, chain.egress_mib, chain.units)
        lease.released, lease.refunded = chain.released(params), unlocked + chain.refunded
        lease.seen_ms = lease.seen_ms or self.clock()
        lease.opened_tx, lease.closed_tx = first.tx_hash, last.tx_hash if closed else None
        lease.closed_ms = (lease.closed_ms or self.clock()) if closed else None

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
        best.paid = covered or full or lease.state is LeaseState.CLOSED


def _forget(lease: LeaseRow) -> None:
    """A reorg took the opening away; the relayer brings the same bytes back."""
    lease.start_s = lease.end_s = lease.opened_tx = None
    lease.settled, lease.released, lease.refunded = {}, 0, 0
