"""Why nothing matches: counts, and changes that do what they promise."""

from typing import Any

import pytest

from marketplace.domain.book import Book
from marketplace.domain.explain import Explanation, explain
from marketplace.domain.order import (
    AddAsk,
    AddBid,
    NodeFacts,
    Refused,
    RejectReason,
    RestingAsk,
    Wants,
)
from settlement.eip712 import text32
from settlement.orders import FLAG_INTERRUPTIBLE, FLAG_NO_GPU, FLAG_SHARED, Prices, TierLimit
from tests.factories import (
    A100,
    H100,
    METER,
    NANO,
    NOW,
    PROVIDER,
    make_limit,
    resting_ask,
    resting_bid,
)


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


CORES: dict[str, Any] = {
    "gpu_milli": 0, "tier": "CPU", "flags": FLAG_NO_GPU, "floor": Prices(0, NANO // 10),
}  # fmt: skip


def without_gpu(price: int, **changes: Any) -> dict[str, Any]:
    """A bid of two cores for at most so much an hour."""
    limits = (TierLimit(text32("CPU"), price * 1000),)
    sizes = {"gpu_milli": 0, "cpu_milli": 2000}
    return {**sizes, "limits": limits, "flags": FLAG_NO_GPU, **changes}


def test_a_job_without_a_gpu_is_told_the_price_of_an_hour_all_in() -> None:
    found = explained([resting_ask(1, **CORES)], **without_gpu(NANO // 10))
    assert only_change(found) == ("rate_above_limit", "/pricing/max_hour", "0.2")
    assert explained([resting_ask(1, **CORES)], **without_gpu(NANO // 5)).relaxations == ()


def test_a_job_without_a_gpu_and_an_ask_with_some_never_come_together() -> None:
    found = explained([resting_ask(1)], **without_gpu(NANO, limits=(make_limit(),)))
    assert [str(e.reason) for e in found.eliminations] == ["only_with_gpu"]
    assert found.relaxations == ()
    found = explained([resting_ask(1, **{**CORES, "tier": H100})])
    assert [str(e.reason) for e in found.eliminations] == ["too_few_gpus"]


@pytest.mark.parametrize(
    ("bid", "changes"),
    [
        ({}, [("interruption_not_accepted", "/placement/interruptible", "true")]),
        ({"min_notice_seconds": 301},
         [("interruption_not_accepted", "/placement/interruptible", "true"),
          ("notice_too_short", "/placement/min_notice", "5m")]),
        ({"flags": FLAG_INTERRUPTIBLE, "min_notice_seconds": 301},
         [("notice_too_short", "/placement/min_notice", "5m")]),
    ],
)  # fmt: skip
def test_what_an_interruptible_ask_needs_is_named(
    bid: dict[str, Any], changes: list[tuple[str, str, str]]
) -> None:
    ask = resting_ask(1, flags=FLAG_INTERRUPTIBLE, notice_seconds=300)
    found = explained([ask], **bid)
    named = [(str(c.reason), c.pointer, c.value) for c in found.relaxations[0].changes]
    assert named == changes
    fits = {"flags": FLAG_INTERRUPTIBLE, "min_notice_seconds": 300}
    assert explained([ask], **fits).eliminations == ()


def test_a_node_that_has_less_than_its_ask_is_judged_by_what_it_has() -> None:
    ask = resting_ask(1, facts=NodeFacts("n", "eu", memory_mib=512))
    assert only_change(explained([ask])) == ("too_little_memory", "/resources/memory", "512MB")


def test_cheapest_price_to_raise_to_is_named() -> None:
    found = explained([resting_ask(1, price=9 * NANO), resting_ask(2, price=4 * NANO)])
    assert only_change(found) == ("rate_above_limit", "/pricing/max_gpu_hour", "4")
    relaxation = found.relaxations[0]
    assert (relaxation.ask_id, relaxation.rate) == ("ask_2", 4 * 10**12)
    assert relaxation.max_cost == 4 * 10**18
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


Row = tuple[RejectReason, dict[str, Any], dict[str, Any], Wants, tuple[str, str] | None]
ANY = Wants()
REQUEST = {"unit": "request"}
# One constraint at a time: what of ask and bid parts them, and the one change that helps, if any.
PARTED: list[Row] = [
    (RejectReason.TIER, {"tier": A100}, {}, ANY, ("/resources/gpu", A100)),
    (RejectReason.RUNTIME, {}, {}, Wants(runtime="docker"), None),
    (RejectReason.REGION, {}, {}, Wants(regions=("us", "e")), ("/placement/regions", "eu")),
    (RejectReason.SHARE, {}, {"gpu_milli": 500}, ANY, None),
    (RejectReason.SHARE, {"flags": FLAG_SHARED}, {"gpu_milli": 500, "flags": 0}, ANY, None),
    (RejectReason.VERIFIED, {}, {}, Wants(verified_only=True),
     ("/placement/verified_only", "false")),
    (RejectReason.RELIABILITY, {"facts": NodeFacts("n", "eu", reliability_milli=950)}, {},
     Wants(min_reliability_milli=951), ("/placement/min_reliability", "0.95")),
    (RejectReason.PARTY, {}, {"witness": PROVIDER}, ANY, None),
    (RejectReason.PARTY, {}, {"witness": METER}, ANY, None),
    (RejectReason.UNIT, {"unit": "token"}, {"units": 1} | REQUEST, ANY, None),
    (RejectReason.GPU_COUNT, {}, {"gpu_milli": 2000}, ANY, None),
    (RejectReason.CPU, {}, {"cpu_milli": 8001}, ANY, ("/resources/cpu", "8")),
    (RejectReason.MEMORY, {}, {"memory_mib": 65_537}, ANY, ("/resources/memory", "64GB")),
    (RejectReason.STORAGE, {}, {"storage_mib": 102_401}, ANY, ("/resources/disk", "100GB")),
    (RejectReason.DURATION_LONG, {"max_seconds": 3540}, {}, ANY, ("/max_duration", "59m")),
    (RejectReason.DURATION_SHORT, {"min_seconds": 3601}, {}, ANY, ("/max_duration", "3601s")),
    (RejectReason.START_LIMIT, {}, {}, Wants(start_deadline_seconds=59),
     ("/start_deadline", "1m")),
    (RejectReason.START_LIMIT, {}, {"max_start_seconds": 59}, ANY, ("/start_deadline", "1m")),
    (RejectReason.ALREADY_TRIED, {}, {"tried": frozenset({"ask_1"})}, ANY, None),
    (RejectReason.NOT_STARTED, {"starts_at": NOW + 1}, {}, ANY, None),
    (RejectReason.RATE, {"floor": Prices(3 * NANO + 1)}, {}, ANY,
     ("/pricing/max_gpu_hour", "3.000000001")),
    (RejectReason.EGRESS_PRICE, {"floor": Prices(1, egress_gib=1)}, {"egress_mib": 1}, ANY,
     ("/egress/max_price", "0.000000001")),
    (RejectReason.UNIT_PRICE, {"floor": Prices(1, unit=1)} | REQUEST, {"units": 1} | REQUEST, ANY,
     ("/units/max_price", "0.000000001")),
    (RejectReason.BUDGET, {"min_seconds": 1800, "start_limit_seconds": 0},
     {"budget": 10**18 - 1}, ANY, ("/budget/max_total", "1")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "ask", "bid", "wants", "change"), PARTED, ids=[str(row[0]) for row in PARTED]
)
def test_each_constraint_alone_parts_ask_and_bid_and_one_change_is_enough_if_any(
    reason: RejectReason,
    ask: dict[str, Any],
    bid: dict[str, Any],
    wants: Wants,
    change: tuple[str, str] | None,
) -> None:
    found = explained([resting_ask(1, **ask)], wants, **bid)
    assert [e.reason for e in found.eliminations] == [reason]
    book = Book()
    book.apply(AddAsk(NOW, resting_ask(1, **ask)))
    order = resting_bid(2, wants=wants, **bid)
    assert book.apply(AddBid(NOW, order)) == [Refused("bid_2", RejectReason.NO_MATCH)]
    if change is None:
        assert found.relaxations == ()
        assert "no change to the job helps now" in found.summary
    else:
        assert only_change(found) == (reason, *change)


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
