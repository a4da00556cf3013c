"""The one book of a process, kept in step with the order log and started from a snapshot."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from marketplace.db.store import Database, Store
from marketplace.db.tables import BookSnapshotRow, OrderEntryRow
from marketplace.domain.book import Book
from marketplace.domain.order import BookMarket, Event
from marketplace.domain.snapshot import capture, decode, encode, restore
from marketplace.services.orderlog import command_of
from marketplace.services.ports import Market

BATCH = 500
APPLIED = "matcher_applied"
"""The mark up to which the matcher has written what the book decided."""
SNAPSHOT_ROWS = 20_000
"""Rows of the order log between two snapshots: the most that a restart has to replay."""


@contextmanager
def _no_collections() -> Iterator[None]:
    """Keep the garbage collector from walking a growing book over and over, which takes half the
    time of a start; nothing that is made meanwhile is garbage."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Bookkeeper:
    """One book and how far along the order log it is. Thread-safe.

    The matcher that leads moves it beyond the mark APPLIED and writes what it decides. Everybody
    else only follows the mark: what lies behind it has been decided, and replaying it gives the
    same book. The book's state at a row follows from the rows alone, so a snapshot stays right
    whatever becomes of the transaction that took the book there.
    """

    def __init__(self, market: Market, database: Database) -> None:
        self._market = BookMarket(market.fee_bps, market.opener, market.decimals)
        self._database = database
        self._lock = threading.Lock()
        self._book: Book | None = None
        self._snapshot_seq = 0
        self.applied = 0
        self.leads = False

    def next_time(self) -> int | None:
        """Unix seconds at which time alone changes the book; None if it does not, or for others
        than the leader."""
        with self._lock:
            return self._book.next_time() if self._book is not None and self.leads else None

    @contextmanager
    def view(self) -> Iterator[Book]:
        """The book as the matcher left it, held still while it is looked at. Never call it in a
        transaction that writes: the matcher writes while it holds the book."""
        with self._lock, self._database.read() as store:
            mark = store.marks.get(APPLIED)
            yield self._follow(store, mark.value if mark is not None else 0)

    def follow(self, store: Store, until: int) -> None:
        """Take in what the matcher has decided up to a row."""
        with self._lock:
            self._follow(store, until)

    @contextmanager
    def leading(self, store: Store, until: int) -> Iterator[Book]:
        """The book as of a row, held for whoever takes in the rows that follow by `take`. Call
        `reset` if what was written with them is undone."""
        with self._lock:
            yield self._follow(store, until)

    def take(self, row: OrderEntryRow) -> list[Event]:
        """Apply the next row of the order log to the book that is held."""
        if self._book is None or row.seq <= self.applied:
            raise AssertionError(f"row {row.seq} after row {self.applied}")
        events = self._book.apply(command_of(row))
        self.applied = row.seq
        return events

    def reset(self) -> None:
        """Drop the book: a transaction that it had run ahead of was undone."""
        with self._lock:
            self._book, self.applied = None, 0

    def save(self) -> bool:
        """Store a snapshot if enough rows came after the last; returns whether it did."""
        with self._lock:
            if self._book is None or self.applied - self._snapshot_seq < SNAPSHOT_ROWS:
                return False
            state = capture(self._book)
            seq = self.applied
        data = encode(state)
        with self._database.write() as store:
            store.snapshots.keep(BookSnapshotRow(seq=seq, data=data))
        with self._lock:
            self._snapshot_seq = seq
        return True

    def _follow(self, store: Store, until: int) -> Book:
        if self._book is None:
            with _no_collections():
                self._book = self._start(store, until)
                self._catch_up(store, until)
        self._catch_up(store, until)
        return self._book

    def _catch_up(self, store: Store, until: int) -> None:
        while self.applied < until:
            for row in store.order_log.between(self.applied, until, BATCH):
                self.take(row)

    def _start(self, store: Store, until: int) -> Book:
        """The book of the newest snapshot, or an empty one."""
        found = store.snapshots.newest(until)
        state = decode(found.data) if found is not None else None
        if found is None or state is None:
            self.applied = self._snapshot_seq = 0
            return Book(self._market)
        self.applied = self._snapshot_seq = found.seq
        return restore(state, self._market)
