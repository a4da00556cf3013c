"""The book by example: who gets what, at which price, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest

from marketplace.domain.book import Book
from marketplace.domain.order import (
    AddAsk,
    AddBid,
    BookMarket,
    CancelAsk,
    CancelBid,
    Cause,
    Event,
    Fill,
    Filled,
    Free,
    NodeFacts,
    Refused,
    RejectReason,
    Removed,
    Rested,
    RestingAsk,
    RestingBid,
    SetNode,
    Tick,
    Wants,
)
from settlement.orders import FLAG_SHARED, Prices
from tests.factories import (
    A100,
    H100,
    NANO,
    NOW,
    PROVIDER,
    address,
    make_limit,
    resting_ask,
    resting_bid,
)

IMPATIENT = Wants()


def book_with(*asks: RestingAsk, market: BookMarket | None = None) -> Book:
    book = Book(market)
    for ask in asks:
        assert book.apply(AddAsk(NOW, ask)) == [Rested(ask.id)]
    return book


def add(book: Book, bid: RestingBid, at: int = NOW) -> list[Event]:
    return book.apply(AddBid(at, bid))


def only_fill(events: list[Event]) -> Fill:
    [event] = events
    assert isinstance(event, Filled)
    return event.fill


def asks_taken(events: list[Event]) -> list[tuple[str, str]]:
    return [(e.fill.bid_id, e.fill.ask_id) for e in events if isinstance(e, Filled)]


def test_bid_takes_the_cheapest_ask_at_the_asks_price() -> None:
    book = book_with(resting_ask(1, price=2 * NANO), resting_ask(2, price=NANO))
    fill = only_fill(add(book, resting_bid(3, price=5 * NANO)))
    assert (fill.ask_id, fill.terms.rate, fill.prices) == ("ask_2", 10**12, Prices(NANO))
    assert (fill.provider, fill.node, fill.node_id, fill.gpus) == (PROVIDER, 2, "node_2", (0,))
    assert (fill.terms.paid_seconds, fill.terms.start_seconds) == (3600, 60)
    assert fill.terms.lock == 10**18  # the time to start in is not paid


def test_price_is_the_all_in_rate_of_what_the_bid_takes() -> None:
    cheap_gpu = resting_ask(1, floor=Prices(NANO, cpu_hour=NANO))
    cheap_cpu = resting_ask(2, floor=Prices(3 * NANO // 2))
    assert only_fill(add(book_with(cheap_gpu, cheap_cpu), resting_bid(3))).ask_id == "ask_2"
    tiny = resting_bid(4, cpu_milli=100)
    assert only_fill(add(book_with(cheap_gpu, cheap_cpu), tiny)).ask_id == "ask_1"


def test_resting_bids_are_served_by_limit_then_arrival() -> None:
    book = book_with()
    for number, price in ((1, 2), (2, 3), (3, 3)):
        assert add(book, resting_bid(number, price=price * NANO)) == [Rested(f"bid_{number}")]
    served = [
        asks_taken(book.apply(AddAsk(NOW, resting_ask(10 + n, price=NANO)))) for n in range(4)
    ]
    assert served == [
        [("bid_2", "ask_10")], [("bid_3", "ask_11")], [("bid_1", "ask_12")], [],
    ]  # fmt: skip


def test_one_ask_serves_bids_until_it_is_full_and_again_when_freed() -> None:
    book = book_with(resting_ask(1, gpu_milli=2000))
    assert only_fill(add(book, resting_bid(2))).gpus == (0,)
    assert only_fill(add(book, resting_bid(3))).gpus == (1,)
    assert add(book, resting_bid(4)) == [Rested("bid_4")]
    [event] = book.apply(Free(NOW, "bid_2", "ask_1"))
    assert isinstance(event, Filled)
    assert (event.fill.bid_id, event.fill.gpus) == ("bid_4", (0,))


def test_capacity_counts_over_all_asks_of_a_node() -> None:
    book = book_with(resting_ask(1, node=5), resting_ask(2, node=5, price=9 * NANO))
    assert only_fill(add(book, resting_bid(3))).ask_id == "ask_1"
    assert add(book, resting_bid(4, price=9 * NANO)) == [Rested("bid_4")]
    other_provider = resting_ask(6, node=5, provider=address(6), price=9 * NANO)
    assert asks_taken(book.apply(AddAsk(NOW, other_provider))) == [("bid_4", "ask_6")]


def test_shares_fill_the_fullest_gpu_that_has_room() -> None:
    book = book_with(resting_ask(1, gpu_milli=2000, flags=FLAG_SHARED))
    taken = [
        only_fill(add(book, resting_bid(number, gpu_milli=milli))).gpus
        for number, milli in ((2, 600), (3, 600), (4, 300), (5, 400))
    ]
    assert taken == [(0,), (1,), (0,), (1,)]
    refused = [Refused("bid_6", RejectReason.NO_MATCH)]
    assert add(book, resting_bid(6, gpu_milli=200, wants=IMPATIENT)) == refused


def test_bid_that_does_not_rest_is_refused_at_once_and_leaves_no_trace() -> None:
    book = book_with()
    assert add(book, resting_bid(1, wants=IMPATIENT)) == [Refused("bid_1", RejectReason.NO_MATCH)]
    assert book.apply(AddAsk(NOW, resting_ask(2))) == [Rested("ask_2")]


def test_resting_bid_leaves_at_its_start_deadline_or_expiry() -> None:
    book = book_with()
    waits = Wants(rests=True, start_deadline_seconds=60)
    add(book, resting_bid(1, wants=waits))
    add(book, resting_bid(2, wants=waits, expiry=NOW + 30))
    assert book.next_time() == NOW + 31
    assert book.apply(Tick(NOW + 30)) == []
    assert book.apply(Tick(NOW + 31)) == [Removed("bid_2", Cause.EXPIRED)]
    assert book.apply(Tick(NOW + 61)) == [Removed("bid_1", Cause.START_DEADLINE)]


def test_deadline_of_a_cancelled_bid_does_not_end_its_successor() -> None:
    book = book_with()
    waits = Wants(rests=True, start_deadline_seconds=60)
    add(book, resting_bid(1, wants=waits))
    book.apply(CancelBid(NOW, "bid_1"))
    add(book, resting_bid(1, wants=waits), at=NOW + 50)
    assert book.apply(Tick(NOW + 70)) == []


def test_ask_expires_and_takes_no_more_fills() -> None:
    book = book_with(resting_ask(1, expiry=NOW + 10))
    assert book.apply(Tick(NOW + 10)) == []
    assert book.apply(Tick(NOW + 11)) == [Removed("ask_1", Cause.EXPIRED)]
    assert add(book, resting_bid(2), at=NOW + 11) == [Rested("bid_2")]


def test_time_never_goes_back() -> None:
    book = book_with(resting_ask(1, expiry=NOW + 10))
    book.apply(Tick(NOW + 11))
    assert book.apply(AddAsk(NOW, resting_ask(2, expiry=NOW + 10))) == [
        Refused("ask_2", RejectReason.EXPIRED)
    ]


def test_cancelled_ask_takes_no_fills_but_its_leases_hold_on() -> None:
    book = book_with(resting_ask(1))
    add(book, resting_bid(2))
    assert book.apply(CancelAsk(NOW, "ask_1")) == [Removed("ask_1", Cause.CANCELLED)]
    use = book.nodes.get((PROVIDER, 1))
    assert use is not None
    assert use.gpu_milli == 1000
    assert book.apply(Free(NOW, "bid_2", "ask_1")) == []
    assert book.nodes.get((PROVIDER, 1)) is None


def test_fail_over_takes_the_next_ask_within_what_is_left() -> None:
    book = book_with(resting_ask(1, price=NANO), resting_ask(2, price=2 * NANO))
    bid = resting_bid(3)
    assert only_fill(add(book, bid)).ask_id == "ask_1"
    again = replace(bid, tried=frozenset({"ask_1"}), budget_left=10**18)
    fill = only_fill(add(book, again))
    assert fill.ask_id == "ask_2"
    assert fill.terms.paid_seconds == 1800
    assert fill.terms.budget_limited


def test_budget_pays_for_the_least_time_of_the_ask_and_not_for_its_start() -> None:
    hour = 10**18
    for budget, fills in ((hour, True), (hour - 1, False)):
        book = book_with(resting_ask(1, price=NANO, min_seconds=3600, start_limit_seconds=600))
        events = add(book, resting_bid(2, budget=budget, wants=IMPATIENT))
        assert [isinstance(event, Filled) for event in events] == [fills]


def test_ask_that_may_start_later_than_the_bid_allows_is_not_taken() -> None:
    for most, limit, fills in ((60, 60, True), (59, 60, False)):
        book = book_with(resting_ask(1, start_limit_seconds=limit))
        events = add(book, resting_bid(2, max_start_seconds=most, wants=IMPATIENT))
        assert [isinstance(event, Filled) for event in events] == [fills]


def test_pair_that_holds_a_lease_is_not_filled_twice_even_if_asked() -> None:
    book = book_with(resting_ask(1, gpu_milli=2000))
    bid = resting_bid(2, wants=IMPATIENT)
    add(book, bid)
    assert add(book, bid) == [Refused("bid_2", RejectReason.NO_MATCH)]


def test_node_that_changes_while_full_or_early_is_found_where_it_then_is() -> None:
    book = book_with(resting_ask(1))
    add(book, resting_bid(2))
    book.apply(SetNode(NOW, PROVIDER, 1, NodeFacts("node_1", "us")))
    add(book, resting_bid(3, wants=Wants(regions=("us",), rests=True)))
    assert asks_taken(book.apply(Free(NOW, "bid_2", "ask_1"))) == [("bid_3", "ask_1")]


def test_quote_lists_fitting_asks_best_first_and_changes_nothing() -> None:
    asks = [resting_ask(n, price=price * NANO) for n, price in ((1, 3), (2, 1), (3, 2), (4, 9))]
    book = book_with(*asks)
    assert [f.ask_id for f in book.quote(resting_bid(5))] == ["ask_2", "ask_3", "ask_1"]
    assert [f.ask_id for f in book.quote(resting_bid(5), most=1)] == ["ask_2"]
    assert len(list(book.asks())) == 4
    assert list(book.bids()) == []
    use = book.nodes.get((PROVIDER, 2))
    assert use is not None
    assert use.gpu_milli == 0


UNKNOWN = RejectReason.UNKNOWN_ORDER


def test_orders_that_are_unknown_or_known_twice_are_refused() -> None:
    book = book_with(resting_ask(1, price=9 * NANO))
    add(book, resting_bid(2))
    assert book.apply(AddAsk(NOW, resting_ask(1))) == [Refused("ask_1", RejectReason.DUPLICATE)]
    assert add(book, resting_bid(2)) == [Refused("bid_2", RejectReason.DUPLICATE)]
    assert book.apply(CancelAsk(NOW, "ask_9")) == [Refused("ask_9", UNKNOWN)]
    assert book.apply(CancelBid(NOW, "bid_9")) == [Refused("bid_9", UNKNOWN)]
    assert book.apply(Free(NOW, "bid_9", "ask_9")) == [Refused("bid_9", UNKNOWN)]
    assert book.apply(CancelBid(NOW, "bid_2")) == [Removed("bid_2", Cause.CANCELLED)]


MARKET = BookMarket(fee_bps=100, opener=address(7))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"expiry": NOW - 1}, RejectReason.EXPIRED),
        ({"max_fee_bps": 99}, RejectReason.FEE),
        ({"opener": address(8)}, RejectReason.OPENER),
        ({"gpu_milli": 0}, RejectReason.GPU_SIZE),
        ({"gpu_milli": 1500}, RejectReason.GPU_SIZE),
    ],
)
def test_order_that_no_lease_could_open_is_refused(
    changes: dict[str, Any], reason: RejectReason
) -> None:
    book = Book(MARKET)
    book.apply(Tick(NOW))
    assert book.apply(AddAsk(NOW, resting_ask(1, **changes))) == [Refused("ask_1", reason)]
    if changes.get("gpu_milli") != 0:  # a builder cannot give a limit per GPU of none
        assert add(book, resting_bid(2, **changes)) == [Refused("bid_2", reason)]
    assert add(book, resting_bid(3, nodes=2)) == [Refused("bid_3", RejectReason.NODES)]


def test_named_opener_of_this_market_is_accepted() -> None:
    book = book_with(resting_ask(1, opener=address(7)), market=MARKET)
    assert asks_taken(add(book, resting_bid(2, opener=address(7)))) == [("bid_2", "ask_1")]


@pytest.mark.parametrize(
    ("ask", "bid", "wants"),
    [
        ({}, {}, Wants(regions=("eu",), min_reliability_milli=1000, start_deadline_seconds=60)),
        ({"max_seconds": 3600, "min_seconds": 3600}, {}, IMPATIENT),
        ({"floor": Prices(3 * NANO)}, {}, IMPATIENT),
        ({}, {"cpu_milli": 8000, "memory_mib": 65_536, "storage_mib": 102_400}, IMPATIENT),
        ({"min_seconds": 1800, "start_limit_seconds": 0}, {"budget": 10**18}, IMPATIENT),
        ({"unit": "token"}, {"units": 0}, IMPATIENT),
        ({"starts_at": NOW}, {}, IMPATIENT),
        ({"expiry": NOW}, {"expiry": NOW}, IMPATIENT),
    ],
)
def test_bounds_are_inclusive(ask: dict[str, Any], bid: dict[str, Any], wants: Wants) -> None:
    book = book_with(resting_ask(1, **ask))
    assert asks_taken(add(book, resting_bid(2, wants=wants, **bid))) == [("bid_2", "ask_1")]


def test_region_of_a_region_is_accepted_but_not_a_longer_word() -> None:
    west = NodeFacts("node_1", "eu-west")
    wants = Wants(regions=("eu",))
    assert asks_taken(add(book_with(resting_ask(1, facts=west)), resting_bid(2, wants=wants)))
    europe = NodeFacts("node_1", "europe")
    assert not asks_taken(add(book_with(resting_ask(1, facts=europe)), resting_bid(2, wants=wants)))


def test_bid_of_several_tiers_pays_each_tiers_own_limit() -> None:
    limits = (make_limit(H100, NANO), make_limit(A100, 2 * NANO))
    asks = (resting_ask(1, price=3 * NANO // 2), resting_ask(2, tier=A100, price=2 * NANO))
    fill = only_fill(add(book_with(*asks), resting_bid(3, limits=limits)))
    assert (fill.ask_id, fill.tier) == ("ask_2", A100)
