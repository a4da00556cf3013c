"""Snapshots: bytes that depend on the book's state alone, and books that go on as if never away."""

import json
import zlib

from marketplace.domain.book import Book
from marketplace.domain.order import AddAsk, AddBid, BookMarket, Filled, Free, Tick
from marketplace.domain.snapshot import book_hash, capture, decode, encode, restore, stored_struct
from tests.factories import HOUR, NOW, resting_ask, resting_bid

MARKET = BookMarket(fee_bps=100)


def busy_book() -> Book:
    """A full ask, a free one, one that has not started, a lease and two resting bids."""
    book = Book(MARKET)
    for order in (resting_ask(1), resting_ask(2, price=9 * 10**9)):
        book.apply(AddAsk(NOW, order))
    book.apply(AddAsk(NOW, resting_ask(3, starts_at=NOW + HOUR)))
    book.apply(AddBid(NOW, resting_bid(4)))
    book.apply(AddBid(NOW, resting_bid(5, tried=frozenset({"ask_2"}), budget_left=10**18)))
    book.apply(AddBid(NOW + 1, resting_bid(6)))
    return book


def after_restart(book: Book) -> Book:
    state = decode(encode(capture(book)))
    assert state is not None
    return restore(state, MARKET)


def test_restored_book_has_the_same_hash_and_goes_on_alike() -> None:
    book, again = busy_book(), after_restart(busy_book())
    assert book_hash(again) == book_hash(book)
    for command in (Free(NOW + 2, "bid_4", "ask_1"), Tick(NOW + HOUR), Tick(NOW + 25 * HOUR)):
        events = book.apply(command)
        assert events
        assert again.apply(command) == events
        assert book_hash(again) == book_hash(book)


def test_hash_changes_with_what_a_lease_holds() -> None:
    book = busy_book()
    before = book_hash(book)
    events = book.apply(Free(NOW + 2, "bid_4", "ask_1"))
    assert [type(event) for event in events] == [Filled]
    assert book_hash(book) != before


def test_snapshot_of_another_format_is_not_read() -> None:
    document = json.loads(zlib.decompress(encode(capture(busy_book()))))
    document["format"] += 1
    assert decode(zlib.compress(json.dumps(document).encode())) is None


def test_stored_orders_are_read_as_if_they_were_checked() -> None:
    for order in (resting_ask(1).ask, resting_bid(4).bid):
        assert stored_struct(type(order), order.to_message()) == order
