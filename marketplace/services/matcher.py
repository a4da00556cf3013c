"""The matcher: order log → book → fills. One process leads, and stores its place with its fills."""

from dataclasses import dataclass

from marketplace.db.store import Database, Store
from marketplace.db.tables import AskRow, BidRow, JobRow, LeaseRow, MarkRow, OrderEntryRow
from marketplace.domain.advance import BidFilled, BidLeftBook
from marketplace.domain.book import Book
from marketplace.domain.drafts import AskState
from marketplace.domain.life import Do, JobState, LeaseState
from marketplace.domain.order import Cause, Event, Fill, Filled, Refused, RejectReason, Removed
from marketplace.services.bookkeeper import APPLIED, BATCH, Bookkeeper
from marketplace.services.common import new_id, unhex
from marketplace.services.lives import Lives, lease_life
from marketplace.services.orderlog import BID, log_tick, resting_bid
from marketplace.services.ports import Clock, Market
from marketplace.services.quotes import Quotes
from marketplace.wire.base import hex_text
from marketplace.wire.problems import NoMatch
from settlement.chain.calls import EscrowCalls, Match, Previous
from settlement.eip712 import from_text32
from settlement.orders import Ask, Bid, OpenedFrom, Prices
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
    lives: Lives

    def tick(self) -> int:
        """Apply what the order log has to offer; returns how many rows it took in or added. A
        failed write leaves the book ahead of the log, so it is built anew on the next call."""
        with self.database.read() as store:
            new = store.order_log.last_seq() > self.books.applied
        if not new and self.due_s() != 0:
            return 0
        written = False
        try:
            with self.database.write() as store:
                count = self._apply(store)
            written = True
        finally:
            if not written:
                self.books.reset()
        return count

    def due_s(self) -> float | None:
        """Seconds until time alone changes the book; None: it never does."""
        due = self.books.next_time()
        return None if due is None else max(0.0, due - self.clock() / 1000)

    def _apply(self, store: Store) -> int:
        mark = store.marks.get(APPLIED, lock=True)
        if mark is None:
            mark = store.marks.add(MarkRow(name=APPLIED, value=0))
        self.books.leads = store.lead("matcher")
        if not self.books.leads:
            self.books.follow(store, mark.value)
            return 0
        rows = store.order_log.after(mark.value, BATCH)
        with self.books.leading(store, mark.value) as book:
            for row in rows:
                for event in self.books.take(row):
                    self._write(store, book, row, event)
                mark.value = row.seq
        if not rows and self.due_s() == 0:
            log_tick(store, self.clock() // 1000)
            return 1  # the next call applies it, as it does every row
        return len(rows)

    def _write(self, store: Store, book: Book, row: OrderEntryRow, event: Event) -> None:
        if isinstance(event, Filled):
            self._filled(store, row.seq, event.fill)
        elif isinstance(event, Refused | Removed):
            if event.order_id.startswith("ask_"):
                self._ask_left(store, event)
            elif isinstance(event, Removed):
                cancelled = event.cause is Cause.CANCELLED
                self._bid_left(store, event.order_id, event.cause.value, cancelled)
            elif row.kind == BID and row.subject == event.order_id:
                no_match = event.reason is RejectReason.NO_MATCH
                why = self.quotes.why_not(book, resting_bid(row)) if no_match else None
                self._bid_left(store, event.order_id, event.reason.value, False, why)

    def _ask_left(self, store: Store, event: Refused | Removed) -> None:
        ask = store.asks.get(event.order_id, lock=True)
        if ask is None or ask.state != AskState.OPEN:
            return
        if isinstance(event, Refused):
            ask.state, ask.reason = AskState.SUSPENDED, event.reason.value
        elif event.cause is Cause.EXPIRED:
            ask.state, ask.reason = AskState.EXPIRED, event.cause.value

    def _bid_left(
        self, store: Store, bid_id: str, reason: str, cancelled: bool, why: NoMatch | None = None
    ) -> None:
        job = _job(store, bid_id)
        if why is not None and job.state is JobState.QUEUED:
            job.explanation = why.to_json()
        detail = job.explanation["summary"] if job.explanation else None
        self.lives.take(store, job, None, BidLeftBook(reason, cancelled, detail))

    def _filled(self, store: Store, seq: int, fill: Fill) -> None:
        job = _job(store, fill.bid_id)
        ask, bid = store.asks.need(fill.ask_id), store.bids.need(fill.bid_id)
        lease = self._lease(store, fill, seq, ask, bid)
        left = self.lives.take(store, job, None, BidFilled(lease_life(lease), ask.id))
        if Do.SEND_OPENING not in left:
            return
        store.leases.add(lease)
        store.enqueue(IntentKind.OPEN, f"open:{lease.id}", self._open_call(ask, bid, lease))

    def _lease(
        self, store: Store, fill: Fill, seq: int, ask_row: AskRow, bid_row: BidRow
    ) -> LeaseRow:
        ask, bid = Ask.from_message(ask_row.message), Bid.from_message(bid_row.message)
        return LeaseRow(
            id=new_id("lease"),
            lease_no=hex_text(OpenedFrom(ask, bid, fill.prices).lease_no),
            seq=seq,
            job_id=bid_row.job_id,
            bid_id=bid_row.id,
            ask_id=ask_row.id,
            node_id=ask_row.node_id,
            buyer=bid.buyer,
            provider=ask.provider,
            witness=bid.witness,
            meter=ask.meter,
            state=LeaseState.OPENING,
            rate=fill.terms.rate,
            prices=fill.prices.to_message(),
            lock=fill.terms.lock,
            gpu_milli=bid.gpu_milli,
            gpus=list(fill.gpus),
            paid_seconds=fill.terms.paid_seconds,
            max_seconds=bid.max_seconds,
            start_limit_seconds=ask.start_limit_seconds,
            notice_seconds=fill.notice_seconds,
            budget_limited=fill.terms.budget_limited,
            metered=bid.egress_mib > 0 or bid.units > 0,
            unit=from_text32(bid.unit),
            units_cap=bid.units,
            egress_cap_mib=bid.egress_mib,
            interval_ms=store.nodes.need(ask_row.node_id).interval_ms,
            previous=_previous_of(store, bid_row.id),
            created_ms=self.clock(),
        )

    def _open_call(self, ask: AskRow, bid: BidRow, lease: LeaseRow) -> dict[str, object]:
        previous = None
        last = lease.previous
        if last is not None:
            hashes = (unhex(last["ask_hash"]), unhex(last["prices_hash"]))
            previous = Previous(last["provider"], *hashes, last["meter"])
        match = Match(
            ask=Ask.from_message(ask.message),
            bid=Bid.from_message(bid.message),
            ask_signature=unhex(ask.signature),
            bid_signature=unhex(bid.signature),
            previous=previous,
        )
        return self.calls.payload(self.calls.open(match))


def _job(store: Store, bid_id: str) -> JobRow:
    return store.jobs.need(store.bids.need(bid_id).job_id, lock=True)


def _previous_of(store: Store, bid_id: str) -> dict[str, str] | None:
    """The latest lease of a bid that opened on chain, as the next open must name it."""
    opened = store.leases.last_opened(bid_id)
    if opened is None:
        return None
    prices_hash = hex_text(Prices.from_message(opened.prices).struct_hash())
    hashes = {"ask_hash": store.asks.need(opened.ask_id).hash, "prices_hash": prices_hash}
    return {"provider": opened.provider, **hashes, "meter": opened.meter}
