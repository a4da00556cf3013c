"""A book in memory kept in step with the order log: the matcher's own, or a view for quotes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from marketplace.db.store import Store
from marketplace.db.tables import OrderEntryRow
from marketplace.domain.book import Book
from marketplace.domain.commands import Event
from marketplace.domain.order import Market as BookMarket
from marketplace.services.orderlog import command_of
from marketplace.services.ports import Market

BATCH = 500
APPLIED = "matcher_applied"  # the mark up to which the matcher has written fills


def book_market(market: Market) -> BookMarket:
    """What the book needs to know of the market."""
    return BookMarket(market.fee_bps, market.opener, market.decimals)


class Bookkeeper:
    """One book and how far along the order log it is. Thread-safe."""

    def __init__(self, market: Market) -> None:
        self._market = book_market(market)
        self._lock = threading.Lock()
        self.book = Book(self._market)
        self.applied = 0

    def reset(self) -> None:
        """Begin again from an empty book."""
        self.book = Book(self._market)
        self.applied = 0

    def take(self, entry: OrderEntryRow) -> list[Event]:
        """Apply one row; rows must come in order."""
        if entry.seq <= self.applied:
            raise AssertionError(f"row {entry.seq} after row {self.applied}")
        events = self.book.apply(command_of(entry))
        self.applied = entry.seq
        return events

    def catch_up(self, store: Store, until: int | None = None) -> None:
        """Apply every row there is, or those up to `until`."""
        while True:
            rows = store.order_log.after(self.applied, BATCH)
            for row in rows:
                if until is not None and row.seq > until:
                    return
                self.take(row)
            if len(rows) < BATCH:
                return

    @contextmanager
    def view(self, store: Store) -> Iterator[Book]:
        """The book as of now, held still while it is looked at."""
        with self._lock:
            self.catch_up(store)
            yield self.book

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other threads off the book."""
        with self._lock:
            yield
