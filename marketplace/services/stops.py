"""Stops before ready: whoever opens leases and stops them again keeps nodes busy for nothing.

A node pulls images as soon as a lease opens, and nothing is paid before its job is ready. So if the
buyer's side has stopped too many of an account's leases before they were ready within an hour, its
new bids are refused and its resting ones wait. Openings that fail in their block by the buyer's
doing count, too: the relayer has paid for them. What the provider's side stops never counts.
"""

from collections.abc import Callable
from dataclasses import dataclass

from marketplace.db.store import Database, Store
from marketplace.db.tables import JobRow, LeaseRow
from marketplace.domain.life import LeaseLife, Outcome, StopReason
from marketplace.errors import TooManyStops
from marketplace.services.leases import ref_of
from marketplace.services.orderlog import log_pause
from marketplace.services.ports import Clock, EscrowReads, Market
from settlement.errors import ChainError
from settlement.events import Stopped
from settlement.leases import Side

HOUR_MS = 3_600_000


def note_stop(store: Store, market: Market, lease: LeaseRow, is_stopped: bool, now_ms: int) -> None:
    """Note that a lease was stopped for no reason that is known here: who did it is to be found
    out. A stop that the server asked for, or that follows a report, is known already."""
    if lease.stop_requested not in (None, StopReason.RETRY):
        return
    if not is_stopped and lease.stopped_ms is not None:  # a reorg took it back
        _uncount(store, market, lease, now_ms)
    early_or_unreported = lease.ready_ms is None or lease.outcome is None
    unknown = early_or_unreported and lease.stopped_ms is None
    if is_stopped and unknown and lease.end_s is not None:
        lease.stopped_ms = lease.end_s * 1000


def note_failure(store: Store, market: Market, lease: LeaseRow, now_ms: int) -> None:
    """Count a lease that failed to open in its block by the buyer's doing."""
    lease.stopped_ms = now_ms
    _count(store, market, lease, now_ms)


def recount(
    store: Store, market: Market, job: JobRow, lease: LeaseRow, before: LeaseLife, now_ms: int
) -> None:
    """Count the lease if its buyer has just cancelled its job before that was ready. Forget the
    stop if the job turns out to have been ready."""
    asked = StopReason.CANCELLED
    begins = lease.stop_requested == asked and before.stop_requested != asked
    by_buyer = job.ending is Outcome.CANCELLED and job.lease_id == lease.id
    if begins and by_buyer and lease.ready_ms is None and lease.start_s is not None:
        lease.stopped_ms = now_ms
        _count(store, market, lease, now_ms)
    is_ready_now = before.ready_ms is None and lease.ready_ms is not None
    if is_ready_now and lease.stopped_ms is not None:
        _uncount(store, market, lease, now_ms)


def _count(store: Store, market: Market, lease: LeaseRow, now_ms: int) -> None:
    """Count a lease that the buyer's side has just stopped; too many set the account's bids aside
    until the hour has moved on."""
    lease.stopped_by = Side.BUYER
    until_ms = _waits_until_ms(store, market, lease.buyer, now_ms)
    if until_ms is not None:
        log_pause(store, lease.buyer, -(-until_ms // 1000), now_ms)


def _uncount(store: Store, market: Market, lease: LeaseRow, now_ms: int) -> None:
    """Forget who stopped a lease: a reorg took the stop back, or the job was ready after all. The
    account's bids match again if the others are not too many."""
    counted = lease.stopped_by is Side.BUYER
    lease.stopped_ms = lease.stopped_by = None
    if counted:
        until_ms = _waits_until_ms(store, market, lease.buyer, now_ms) or now_ms
        log_pause(store, lease.buyer, -(-until_ms // 1000), now_ms)


def _waits_until_ms(store: Store, market: Market, buyer: str, now_ms: int) -> int | None:
    """Until when an account buys nothing more; None if it may."""
    most = market.early_stops_max
    times = store.leases.early_stops(buyer, now_ms - HOUR_MS, most + 1)
    return times[most] + HOUR_MS if len(times) > most else None


@dataclass(frozen=True, slots=True)
class Stops:
    """Counts stops before ready, in the database, so that a restart forgets none. `blame` hears of
    leases that their providers stopped."""

    market: Market
    clock: Clock
    database: Database
    reads: EscrowReads
    blame: Callable[[Store, LeaseRow], None]

    def check(self, store: Store, buyer: str) -> None:
        """Refuse an account that has stopped too many. Raises TooManyStops."""
        now_ms = self.clock()
        until_ms = _waits_until_ms(store, self.market, buyer, now_ms)
        if until_ms is not None:
            seconds = max(1, -(-(until_ms - now_ms) // 1000))
            raise TooManyStops(
                f"more than {self.market.early_stops_max} leases of {buyer} were stopped, or "
                "failed to open at the relayer's cost, within an hour before their jobs were "
                f"ready; it may buy again in {-(-seconds // 60)} min",
                facts={"retry_after_seconds": seconds},
            )

    def judge(self) -> int:
        """Find out who stopped leases on chain, past this server; returns how many. If the chain
        gives no answer, the next call asks again."""
        with self.database.read() as store:
            unknown = [
                (lease.id, lease.meter, ref_of(lease), _stopping_tx(store, lease))
                for lease in store.leases.stopped_by_unknown(self.clock() - HOUR_MS)
            ]
        judged = 0
        for lease_id, meter, ref, tx_hash in unknown:
            try:
                side = self.reads.who_stopped(tx_hash, ref, meter) if tx_hash else Side.NOBODY
            except ChainError:
                continue
            with self.database.write() as store:
                judged += self._judged(store, lease_id, tx_hash, side)
        return judged

    def _judged(self, store: Store, lease_id: str, tx_hash: str | None, side: Side) -> bool:
        lease = store.leases.need(lease_id, lock=True)
        if lease.stopped_by is not None or _stopping_tx(store, lease) != tx_hash:
            return False  # a reorg, or another process, was faster
        lease.stopped_by = side
        if side is Side.BUYER:
            _count(store, self.market, lease, self.clock())
        elif side is Side.PROVIDER and lease.stop_signature is None:  # else it is blamed already
            self.blame(store, lease)
        return True


def _stopping_tx(store: Store, lease: LeaseRow) -> str | None:
    events = store.chain_events(lease.lease_no)
    return next((x.tx_hash for x in events if isinstance(x.event, Stopped)), None)
