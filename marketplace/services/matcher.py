"""The matcher: order log → book → fills. One leads; what it decided is written with its place."""

from __future__ import annotations

from dataclasses import dataclass, replace

from marketplace.domain.commands import Cause, Event, Filled, Refused, Removed
from marketplace.domain.matching import Fill, RejectReason
from marketplace.services.bookkeeper import APPLIED, BATCH, Bookkeeper
from marketplace.services.common import new_id, to_hex
from marketplace.services.jobstates import set_state
from marketplace.services.orderlog import BID, log_free, log_tick, resting_bid
from marketplace.services.ports import Clock, Database, Market, Store
from marketplace.services.quotes import Quotes
from marketplace.services.records import (
    AskRecord,
    BidRecord,
    FillRecord,
    JobRecord,
    LeaseRecord,
    Mark,
    OrderEntry,
)
from settlement.chain.calls import EscrowCalls, Match, Previous
from settlement.eip712 import from_text32
from settlement.orders import Ask, Bid, lease_no
from settlement.ports import IntentKind


@dataclass(frozen=True, slots=True)
class Matcher:
    """Takes the order log into the book and writes what the book decides."""

    market: Market
    clock: Clock
    database: Database
    books: Bookkeeper
    quotes: Quotes
    calls: EscrowCalls

    def tick(self) -> int:
        """Apply what the order log has to offer; returns how many rows that was.

        A failed write leaves the book ahead of the log, so it is rebuilt on the next call.
        """
        with self.books.held():
            if not self._has_work():
                return 0
            done = False
            try:
                count = self._apply()
                done = True
            finally:
                if not done:
                    self.books.reset()
        return count

    def _has_work(self) -> bool:
        """Whether there are rows to apply; where time alone is due, a row says so first."""
        due = self.books.book.next_time()
        now_s = self.clock() // 1000
        if due is not None and due <= now_s:
            with self.database.write() as store:
                log_tick(store, now_s)
            return True
        with self.database.read() as store:
            return bool(store.order_log.find(after=self.books.applied, limit=1))

    def _apply(self) -> int:
        with self.database.write() as store:
            if not store.lead("matcher"):
                return 0
            mark = store.marks.get(APPLIED, lock=True)
            if mark is None:
                mark = store.marks.add(Mark(APPLIED, 0))
            self.books.catch_up(store, until=mark.value)
            rows = store.order_log.find(after=self.books.applied, limit=BATCH)
            for row in rows:
                for event in self.books.take(row):
                    self._write(store, row, event)
            if rows:
                store.marks.put(replace(mark, value=rows[-1].seq))
        return len(rows)

    def _write(self, store: Store, row: OrderEntry, event: Event) -> None:
        if isinstance(event, Filled):
            self._filled(store, row.seq, event.fill)
        elif isinstance(event, Refused | Removed):
            if event.order_id.startswith("ask_"):
                self._ask_left(store, event)
            elif isinstance(event, Removed):
                cancelled = event.cause is Cause.CANCELLED
                self._bid_left(store, event.order_id, event.cause.value, cancelled, None)
            elif row.kind == BID and row.subject == event.order_id:
                self._bid_left(store, event.order_id, event.reason.value, False, row)

    def _ask_left(self, store: Store, event: Refused | Removed) -> None:
        ask = store.asks.get(event.order_id, lock=True)
        if ask is None or ask.state != "open":
            return
        if isinstance(event, Refused):
            ask = replace(ask, state="suspended", reason=event.reason.value)
        elif event.cause is Cause.EXPIRED:
            ask = replace(ask, state="expired", reason=event.cause.value)
        store.asks.put(ask)

    def _bid_left(
        self, store: Store, bid_id: str, reason: str, cancelled: bool, row: OrderEntry | None
    ) -> None:
        job = self._job(store, bid_id)
        if job.state != "queued":
            return
        now_ms = self.clock()
        if row is not None and reason == RejectReason.NO_MATCH.value:
            job = replace(job, explanation=self._explain(row))
        state = "no_match"
        if cancelled or job.ending == "cancelled":
            state = "cancelled"
        elif job.lease_id is not None:
            state = "failed"  # it ran, was interrupted, and found no further ask
        detail = job.explanation["summary"] if job.explanation else None
        set_state(store, job, state, now_ms, reason, detail)

    def _explain(self, row: OrderEntry) -> dict[str, object]:
        return self.quotes.why_not(self.books.book, resting_bid(row)).to_json()

    def _job(self, store: Store, bid_id: str) -> JobRecord:
        bid = store.bids.get(bid_id)
        job = store.jobs.get(bid.job_id, lock=True) if bid else None
        if job is None:
            raise KeyError(bid_id)
        return job

    def _filled(self, store: Store, seq: int, fill: Fill) -> None:
        job = self._job(store, fill.bid_id)
        now_ms = self.clock()
        ask, bid = store.asks.get(fill.ask_id), store.bids.get(fill.bid_id)
        if ask is None or bid is None:
            raise KeyError(fill.ask_id)
        void = job.ending == "cancelled" or bid.cancelled_ms is not None
        if job.state != "queued" or void:
            log_free(store, fill.bid_id, fill.ask_id, now_ms)
            if job.state == "queued":
                set_state(store, job, "cancelled", now_ms, "cancelled")
            return
        lease = self._lease(store, fill, ask, bid, job, now_ms)
        store.leases.add(lease)
        store.fills.add(_fill_record(fill, seq, lease.id, now_ms))
        job = replace(
            job,
            lease_id=lease.id,
            excluded=[*job.excluded, ask.id],
            reserve=fill.terms.lock,
            matched_ms=now_ms,
        )
        set_state(store, job, "matched", now_ms)
        store.enqueue(IntentKind.OPEN, f"open:{lease.id}", self._open_call(ask, bid, lease))

    def _lease(
        self,
        store: Store,
        fill: Fill,
        ask_row: AskRecord,
        bid_row: BidRecord,
        job: JobRecord,
        now_ms: int,
    ) -> LeaseRecord:
        ask, bid = Ask.from_message(ask_row.message), Bid.from_message(bid_row.message)
        node = store.nodes.get(ask_row.node_id)
        number = lease_no(bid.struct_hash(), ask.struct_hash(), ask.meter)
        return LeaseRecord(
            id=new_id("lease"),
            lease_no=to_hex(number),
            job_id=job.id,
            bid_id=bid_row.id,
            ask_id=ask_row.id,
            node_id=ask_row.node_id,
            buyer=bid.buyer,
            provider=ask.provider,
            witness=bid.witness,
            meter=ask.meter,
            state="opening",
            reason=None,
            rate=fill.rate,
            prices=fill.prices.to_message(),
            lock=fill.terms.lock,
            gpu_milli=bid.gpu_milli,
            funded_seconds=fill.terms.funded_seconds,
            max_seconds=bid.max_seconds,
            start_limit_seconds=ask.start_limit_seconds,
            budget_limited=fill.terms.budget_limited,
            metered=bid.egress_mib > 0 or bid.units > 0,
            unit=from_text32(bid.unit),
            units_cap=bid.units,
            egress_cap_mib=bid.egress_mib,
            interval_ms=node.interval_ms if node else self.market.interval_ms,
            previous=previous_of(store, job),
            created_ms=now_ms,
        )

    def _open_call(self, ask: AskRecord, bid: BidRecord, lease: LeaseRecord) -> dict[str, object]:
        previous = None
        if lease.previous is not None:
            previous = Previous(
                lease.previous["provider"],
                bytes.fromhex(lease.previous["ask_hash"][2:]),
                lease.previous["meter"],
            )
        match = Match(
            ask=Ask.from_message(ask.message),
            bid=Bid.from_message(bid.message),
            ask_signature=bytes.fromhex(ask.signature[2:]),
            bid_signature=bytes.fromhex(bid.signature[2:]),
            previous=previous,
        )
        return self.calls.payload(self.calls.open(match))


def previous_of(store: Store, job: JobRecord) -> dict[str, str] | None:
    """The latest lease of a bid that opened on chain, as the next open must name it."""
    leases = store.leases.find(bid_id=job.bid_id, newest=True)
    opened = next((row for row in leases if row.opened_tx is not None), None)
    ask = store.asks.get(opened.ask_id) if opened else None
    if opened is None or ask is None:
        return None
    return {"provider": opened.provider, "ask_hash": ask.hash, "meter": opened.meter}


def _fill_record(fill: Fill, seq: int, lease_id: str, now_ms: int) -> FillRecord:
    return FillRecord(
        id=new_id("fill"),
        seq=seq,
        job_id=fill.job_id,
        bid_id=fill.bid_id,
        ask_id=fill.ask_id,
        lease_id=lease_id,
        rate=fill.rate,
        prices=fill.prices.to_message(),
        gpus=list(fill.gpus),
        created_ms=now_ms,
    )
