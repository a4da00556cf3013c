"""What a witness signs and refuses, rule by rule."""

from dataclasses import replace
from typing import Any

import pytest

from marketplace.domain.job import parse_job
from marketplace.witness.policy import (
    TOLERANCE_MS,
    LeaseWatch,
    Mark,
    Papers,
    WitnessRefusal,
    first_watch,
    judge_lease,
    judge_usage,
)
from settlement.attestation import Close, UsageAttestation
from settlement.orders import Prices, TierLimit, lease_no, terms_hash
from settlement.units import UINT64_MAX
from tests.factories import NANO, address, job_json, make_ask, make_bid

HOUR_MS = 3_600_000
SPEC = parse_job(job_json(), packed=True)
LIMIT = TierLimit(make_ask().tier, 3 * NANO * 1000, egress_gib=7, unit=9)


def papers(**changes: Any) -> Papers:
    """The papers of the lease that these orders open."""
    taken = {"egress_mib": 10, "units": 5, "unit": "request", "limits": (LIMIT,)}
    bid = make_bid(job_hash=SPEC.hash(), **taken)
    fields: dict[str, Any] = {
        "bid": bid, "bid_signature": b"", "ask": make_ask(), "interval_ms": 1_000, "opened_unix": 0,
        "prices": Prices(2 * NANO, egress_gib=7, unit=9), "spec": SPEC, "seat": 0, **changes,
    }  # fmt: skip
    orders = (fields[name].struct_hash() for name in ("bid", "ask", "prices"))
    number = lease_no(terms_hash(*orders, fields["seat"]), fields["ask"].meter)
    return Papers(**{"lease_no": number, **fields})


TERMS = papers()
BUYER, WITNESS, PROVIDER = TERMS.bid.buyer, TERMS.bid.witness, TERMS.ask.provider


def reading(**changes: Any) -> UsageAttestation:
    parties = (BUYER, PROVIDER, TERMS.lease_no)
    stated = UsageAttestation(*parties, 3, 0, 10_000, 10_000, 0, 0, 0, 2, 1, bytes(32))
    return replace(stated, **changes)


def closing(**changes: Any) -> Close:
    return replace(Close(BUYER, PROVIDER, TERMS.lease_no, 10_000, 2, 1, False), **changes)


MARK = Mark(sequence=2, ms=9_000, egress_mib=2, units=1)
WATCH = LeaseWatch(elapsed_ms=10_000, alive_ms=10_000)


def test_lease_of_the_signed_orders_is_accepted() -> None:
    assert judge_lease(TERMS, WITNESS) is None


def test_lease_of_another_witness_or_number_is_refused() -> None:
    assert judge_lease(TERMS, address(9)) is WitnessRefusal.NOT_OUR_WITNESS
    assert judge_lease(papers(lease_no=bytes(16)), WITNESS) is WitnessRefusal.OTHER_LEASE
    for other in (
        {"ask": make_ask(provider=address(9))},
        {"bid": replace(TERMS.bid, buyer=address(9))},
        {"prices": replace(TERMS.prices, egress_gib=6)},
        {"seat": 1},
    ):
        assert judge_lease(replace(TERMS, **other), WITNESS) is WitnessRefusal.OTHER_LEASE


def test_lease_of_another_seat_is_accepted() -> None:
    assert judge_lease(papers(seat=3), WITNESS) is None
    assert papers(seat=3).lease_no != TERMS.lease_no


def test_job_that_the_bid_does_not_name_is_refused() -> None:
    other = parse_job(job_json(command=["curl"]), packed=True)
    assert judge_lease(papers(spec=other), WITNESS) is WitnessRefusal.OTHER_JOB
    assert judge_lease(papers(bid=make_bid()), WITNESS) is WitnessRefusal.OTHER_JOB


@pytest.mark.parametrize("field", ["provider", "meter"])
def test_witness_that_is_the_providers_is_refused(field: str) -> None:
    of_its_own = papers(ask=make_ask(**{field: WITNESS}))
    assert judge_lease(of_its_own, WITNESS) is WitnessRefusal.OTHER_PARTIES


@pytest.mark.parametrize(
    "changes",
    [
        {"prices": Prices(3 * NANO + 1)},
        {"prices": Prices(2 * NANO, egress_gib=8)},
        {"prices": Prices(2 * NANO, unit=10)},
        {"prices": Prices(UINT64_MAX)},
        {"prices": Prices(2 * NANO, cpu_hour=NANO + 1)},
        {"ask": make_ask(tier="A100-80GB-SXM")},  # a tier that the bid does not name
    ],
)
def test_price_above_the_bids_limit_is_refused(changes: dict[str, Any]) -> None:
    assert judge_lease(papers(**changes), WITNESS) is WitnessRefusal.ABOVE_LIMIT


def test_price_of_what_the_bid_does_not_take_is_free() -> None:
    free = papers(
        bid=make_bid(job_hash=SPEC.hash()), prices=Prices(3 * NANO, egress_gib=NANO, unit=NANO)
    )
    assert judge_lease(free, WITNESS) is None


def test_honest_reading_is_accepted() -> None:
    assert judge_usage(TERMS, MARK, WATCH, reading()) is None


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"lease_no": bytes(16)}, WitnessRefusal.OTHER_LEASE),
        ({"buyer": address(9)}, WitnessRefusal.OTHER_PARTIES),
        ({"provider": address(9)}, WitnessRefusal.OTHER_PARTIES),
        ({"sequence": 2}, WitnessRefusal.SEQUENCE_USED),
        ({"sequence": 1}, WitnessRefusal.SEQUENCE_USED),
        ({"ms": 8_999}, WitnessRefusal.WENT_BACK),
        ({"egress_mib": 1}, WitnessRefusal.WENT_BACK),
        ({"units": 0}, WitnessRefusal.WENT_BACK),
        ({"egress_mib": 11}, WitnessRefusal.ABOVE_CAP),
        ({"units": 6}, WitnessRefusal.ABOVE_CAP),
        ({"ms": 10_000 + TOLERANCE_MS + 3}, WitnessRefusal.AHEAD_OF_CLOCK),
    ],
)
def test_wrong_reading_is_refused(changes: dict[str, Any], refusal: WitnessRefusal) -> None:
    assert judge_usage(TERMS, MARK, WATCH, reading(**changes)) is refusal


def test_reading_within_tolerance_is_accepted() -> None:
    assert judge_usage(TERMS, MARK, WATCH, reading(ms=10_000 + TOLERANCE_MS + 2)) is None


def test_reading_beyond_the_longest_lease_with_every_top_up_is_refused() -> None:
    most = TERMS.ask.max_seconds * 1000
    assert most > TERMS.bid.max_seconds * 1000
    watch = LeaseWatch(most + HOUR_MS, most + HOUR_MS)
    assert judge_usage(TERMS, MARK, watch, reading(ms=most)) is None
    assert judge_usage(TERMS, MARK, watch, reading(ms=most + 1)) is WitnessRefusal.ABOVE_CAP


@pytest.mark.parametrize(
    ("interval_ms", "silence_ms"), [(1_000, 20_000), (10_000, 30_000), (10**9, 180_000)]
)
def test_billing_stops_within_the_silence_after_the_last_heartbeat(
    interval_ms: int, silence_ms: int
) -> None:
    terms = replace(TERMS, interval_ms=interval_ms)
    watch = LeaseWatch(elapsed_ms=HOUR_MS, alive_ms=60_000)
    last = 60_000 + silence_ms + watch.tolerance_ms
    assert judge_usage(terms, MARK, watch, reading(ms=last)) is None
    assert judge_usage(terms, MARK, watch, reading(ms=last + 1)) is WitnessRefusal.NO_HEARTBEAT


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({}, None),
        ({"ms": 9_000}, None),
        ({"ms": 8_999}, WitnessRefusal.WENT_BACK),
        ({"ms": 14_000}, WitnessRefusal.AHEAD_OF_CLOCK),
        ({"units": 6}, WitnessRefusal.ABOVE_CAP),
        ({"egress_mib": 1}, WitnessRefusal.WENT_BACK),
        ({"lease_no": bytes(16)}, WitnessRefusal.OTHER_LEASE),
        ({"provider": address(9)}, WitnessRefusal.OTHER_PARTIES),
    ],
)
def test_close_obeys_the_same_rules(
    changes: dict[str, Any], refusal: WitnessRefusal | None
) -> None:
    assert judge_usage(TERMS, MARK, WATCH, closing(**changes)) is refusal


@pytest.mark.parametrize(
    ("mark_ms", "stated_ms", "opened_ms", "believed_ms"),
    [
        (0, 0, HOUR_MS, 0),
        (0, 5_000, HOUR_MS, 5_000),
        (0, HOUR_MS, HOUR_MS, 20_000),
        (60_000, 70_000, HOUR_MS, 70_000),
        (60_000, HOUR_MS, HOUR_MS, 80_000),
        (0, 5_000, 2_000, 2_000),
        (0, 5_000, -2_000, 0),
    ],
)
def test_late_witness_believes_no_more_than_it_can_have_missed(
    mark_ms: int, stated_ms: int, opened_ms: int, believed_ms: int
) -> None:
    watch = first_watch(TERMS, Mark(ms=mark_ms), stated_ms, opened_ms)
    assert watch == LeaseWatch(believed_ms, believed_ms)
