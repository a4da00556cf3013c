"""Why nothing matches: counts, and changes that do what they promise."""

from typing import Any

import pytest

from marketplace.domain.book import Book
from marketplace.domain.commands import AddAsk, AddBid
from marketplace.domain.explain import Explanation, explain
from marketplace.domain.matching import RejectReason
from marketplace.domain.order import NodeFacts, RestingAsk, Wants
from settlement.orders import Prices
from tests.factories import A100, BUYER, NANO, NOW, resting_ask, resting_bid


def explained(asks: list[RestingAsk], wants: Wants | None = None, **bid: Any) -> Explanation:
    book = Book()
    for ask in asks:
        book.apply(AddAsk(NOW, ask))
    return explain(book, resting_bid(99, wants=wants or Wants(), **bid))


def only_change(found: Explanation) -> tuple[str, str, str]:
    [change] = found.relaxations[0].changes
    return (str(change.reason), change.pointer, change.value)


def test_when_no_node_is_verified_the_summary_says_so() -> None:
    wants = Wants(verified_only=True, regions=("nowhere",))
    for verified in (False, True):
        facts = NodeFacts("n", "eu", verified=verified)
        why = explained([resting_ask(1, facts=facts), resting_ask(2)], wants)
        assert ("No node is verified yet." in why.summary) is not verified


def test_counts_tell_alone_and_in_turn() -> None:
    asks = [
        resting_ask(1, price=9 * NANO, tier=A100),
        resting_ask(2, price=9 * NANO),
        resting_ask(3, price=9 * NANO, facts=NodeFacts("node_3", "us")),
    ]
    found = explained(asks, Wants(regions=("eu",)))
    assert found.considered == 3
    rows = [(str(e.reason), e.alone, e.in_turn, e.left) for e in found.eliminations]
    assert rows == [
        ("tier_not_accepted", 1, 1, 2),
        ("region_not_accepted", 1, 1, 1),
        ("rate_above_limit", 2, 1, 0),
    ]


def test_cheapest_price_to_raise_to_is_named() -> None:
    found = explained([resting_ask(1, price=9 * NANO), resting_ask(2, price=4 * NANO)])
    assert only_change(found) == ("rate_above_limit", "/pricing/max_gpu_hour", "4")
    relaxation = found.relaxations[0]
    assert (relaxation.ask_id, relaxation.rate) == ("ask_2", 4 * 10**12)
    assert relaxation.max_cost == -(-4 * 10**18 * 3660 // 3600)
    assert relaxation.text == (
        "change pricing.max_gpu_hour to 4: then ask_2 (H100-80GB-SXM, eu) fits"
    )
    assert "rate_above_limit: 2" in found.summary
    assert relaxation.text in found.summary


def test_limit_is_rounded_up_so_that_it_covers_the_rate() -> None:
    found = explained(
        [resting_ask(1, gpu_milli=3000, floor=Prices(3 * NANO, cpu_hour=10))], gpu_milli=3000
    )
    assert only_change(found)[2] == "3.000000004"


ONE_STEP: list[tuple[dict[str, Any], dict[str, Any], Wants, tuple[str, str, str]]] = [
    ({"tier": A100}, {}, Wants(), ("tier_not_accepted", "/resources/gpu", A100)),
    ({}, {}, Wants(regions=("us",)), ("region_not_accepted", "/placement/regions", "eu")),
    ({}, {}, Wants(verified_only=True), ("node_not_verified", "/placement/verified_only", "false")),
    (
        {"facts": NodeFacts("n", "eu", reliability_milli=950)},
        {},
        Wants(min_reliability_milli=980),
        ("reliability_too_low", "/placement/min_reliability", "0.95"),
    ),
    ({}, {"cpu_milli": 9000}, Wants(), ("too_little_cpu", "/resources/cpu", "8")),
    ({}, {"memory_mib": 70_000}, Wants(), ("too_little_memory", "/resources/memory", "64GB")),
    ({}, {"storage_mib": 200_000}, Wants(), ("too_little_storage", "/resources/disk", "100GB")),
    ({"max_seconds": 1800}, {}, Wants(), ("duration_above_maximum", "/max_duration", "30m")),
    ({"min_seconds": 7200}, {}, Wants(), ("duration_below_minimum", "/max_duration", "2h")),
    ({}, {}, Wants(start_deadline_seconds=10), ("starts_too_late", "/start_deadline", "1m")),
    (
        {"floor": Prices(NANO, egress_gib=NANO)},
        {"egress_mib": 1},
        Wants(),
        ("egress_price_above_limit", "/egress/max_price", "1"),
    ),
    (
        {"floor": Prices(NANO, unit=NANO), "unit": "request"},
        {"units": 1, "unit": "request"},
        Wants(),
        ("unit_price_above_limit", "/units/max_price", "1"),
    ),
    (
        {"min_seconds": 3600, "start_limit_seconds": 0},
        {"budget": 1},
        Wants(),
        ("budget_too_small", "/budget/max_total", "2"),
    ),
]


@pytest.mark.parametrize(
    ("ask", "bid", "wants", "change"), ONE_STEP, ids=[row[3][0] for row in ONE_STEP]
)
def test_one_change_is_enough_and_says_where(
    ask: dict[str, Any], bid: dict[str, Any], wants: Wants, change: tuple[str, str, str]
) -> None:
    assert only_change(explained([resting_ask(1, **ask)], wants, **bid)) == change


@pytest.mark.parametrize(
    ("ask", "bid", "wants", "reason"),
    [
        ({}, {}, Wants(runtime="docker"), RejectReason.RUNTIME),
        ({}, {"gpu_milli": 500}, Wants(), RejectReason.SHARE),
        ({}, {"gpu_milli": 2000}, Wants(), RejectReason.GPU_COUNT),
        ({"provider": BUYER}, {"witness": BUYER}, Wants(), RejectReason.PARTY),
        ({}, {"units": 1, "unit": "request"}, Wants(), RejectReason.UNIT),
        ({}, {"tried": frozenset({"ask_1"})}, Wants(), RejectReason.ALREADY_TRIED),
    ],
)
def test_what_no_small_change_helps_is_counted_but_not_relaxed(
    ask: dict[str, Any], bid: dict[str, Any], wants: Wants, reason: RejectReason
) -> None:
    found = explained([resting_ask(1, **ask)], wants, **bid)
    assert [e.reason for e in found.eliminations] == [reason]
    assert found.relaxations == ()
    assert "no change to the job helps now" in found.summary


def test_full_node_is_counted_as_capacity() -> None:
    book = Book()
    book.apply(AddAsk(NOW, resting_ask(1)))
    book.apply(AddBid(NOW, resting_bid(2)))
    [row] = explain(book, resting_bid(3)).eliminations
    assert (row.reason, row.alone, row.left) == (RejectReason.CAPACITY, 1, 0)


def test_several_changes_are_named_together_after_every_single_one() -> None:
    far = NodeFacts("node", "us")
    asks = [resting_ask(1, price=NANO, facts=far, tier=A100), resting_ask(2, price=9 * NANO)]
    found = explained(asks, Wants(regions=("eu",)))
    assert [[str(c.reason) for c in r.changes] for r in found.relaxations] == [
        ["rate_above_limit"],
        ["tier_not_accepted", "region_not_accepted"],
    ]


def test_change_that_uncovers_another_names_both() -> None:
    found = explained([resting_ask(1, min_seconds=7200)], budget=3 * 10**18)
    assert [str(c.reason) for c in found.relaxations[0].changes] == [
        "duration_below_minimum",
        "budget_too_small",
    ]


def test_empty_book_says_so() -> None:
    assert explained([]).summary == "no asks are in the book"
