"""Rounding, splitting and bounds of the money arithmetic."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settlement import units
from settlement.errors import FieldError
from settlement.orders import Prices, terms_of
from settlement.units import Sizes
from settlement.usage import UsageVector
from tests.factories import make_ask, make_bid

rates = st.integers(0, units.UINT64_MAX)
millis = st.integers(0, units.UINT40_MAX)
decimals = st.integers(0, 18)
prices = st.integers(0, units.UINT64_MAX)
counts = st.integers(0, units.UINT32_MAX)


@given(rate=rates, ms=millis, dec=decimals)
def test_cost_is_the_exact_figure_rounded_down_and_up(rate: int, ms: int, dec: int) -> None:
    exact = Fraction(rate, 10**12) * Fraction(ms, 3_600_000) * 10**dec
    assert units.cost(rate, ms, dec) == exact.numerator // exact.denominator
    assert units.cost_up(rate, ms, dec) == -(-exact.numerator // exact.denominator)


def test_one_gpu_at_two_fifty_an_hour_for_an_hour() -> None:
    rate = Prices(2_500_000_000).rate(Sizes(1_000))
    assert units.cost(rate, 3_600_000) == 2_500_000_000_000_000_000
    assert units.cost(rate, 1) == 694_444_444_444  # 2.5e18 / 3.6e6, rounded down
    assert units.cost_up(rate, 1) == 694_444_444_445


@given(rate=rates, parts=st.lists(st.integers(0, 10**9), max_size=20), dec=decimals)
def test_splitting_usage_never_changes_the_sum(rate: int, parts: list[int], dec: int) -> None:
    total = paid = 0
    for part in parts:
        total += part
        paid += units.cost(rate, total, dec) - units.cost(rate, total - part, dec)
    assert paid == units.cost(rate, total, dec)


@given(gross=st.lists(st.integers(0, 10**24), max_size=20), bps=st.integers(0, units.MAX_FEE_BPS))
def test_splitting_income_never_changes_the_fee(gross: list[int], bps: int) -> None:
    total = fees = 0
    for part in gross:
        fees += units.fee_of(total + part, bps) - units.fee_of(total, bps)
        total += part
    assert fees == units.fee_of(total, bps)
    assert fees * units.BPS <= total * bps


@given(rate=rates, paid_seconds=st.integers(0, 10**9), ms=millis, dec=decimals)
def test_a_lock_covers_every_payment(rate: int, paid_seconds: int, ms: int, dec: int) -> None:
    paid = units.cost(rate, min(ms, paid_seconds * 1_000), dec)
    assert paid <= units.time_lock(rate, paid_seconds, dec)


@given(start_limit=st.integers(0, units.MAX_START_SECONDS), budget=st.integers(0, 10**20))
def test_the_time_for_a_late_start_is_neither_locked_nor_paid(
    start_limit: int, budget: int
) -> None:
    bid = make_bid(budget=budget, max_start_seconds=units.MAX_START_SECONDS)
    at_once, late = (
        terms_of(ask, bid, ask.floor)
        for ask in (make_ask(start_limit_seconds=seconds) for seconds in (0, start_limit))
    )
    assert (late.paid_seconds, late.lock) == (at_once.paid_seconds, at_once.lock)
    assert late.lock <= budget
    assert late.funded_seconds == late.paid_seconds + start_limit


def test_the_longest_lease_fits_the_slots_forty_bits_of_milliseconds() -> None:
    ask = make_ask(floor=Prices(0), start_limit_seconds=units.MAX_START_SECONDS)
    terms = terms_of(ask, make_bid(max_seconds=units.UINT32_MAX), ask.floor)
    assert terms.paid_seconds == units.MAX_PAID_SECONDS
    assert terms.funded_seconds * 1_000 <= units.UINT40_MAX


@given(egress=prices, unit=prices, caps=st.tuples(counts, counts), dec=decimals, data=st.data())
def test_a_counted_lock_covers_every_payment(
    egress: int, unit: int, caps: tuple[int, int], dec: int, data: st.DataObject
) -> None:
    used = [data.draw(st.integers(0, cap)) for cap in caps]
    lock = units.counted_lock(egress, unit, *caps, dec)
    assert units.counted_cost(egress, unit, used[0], used[1], dec) <= lock
    assert lock - units.counted_cost(egress, unit, *caps, dec) in (0, 1)


def test_counted_prices_by_hand() -> None:
    assert units.counted_cost(10**9, 0, 1_024, 0) == 10**18  # a GiB at one token
    assert units.counted_cost(0, 500_000, 0, 3) == 1_500_000 * 10**9
    assert units.counted_cost(10**9, 0, 1, 0) == 976_562_500_000_000  # one MiB
    assert units.counted_cost(1, 0, 1, 0, 9) == 0
    assert units.counted_lock(1, 0, 1, 0, 9) == 1


@given(rate=st.integers(1, units.UINT64_MAX), atoms=st.integers(0, 10**40), dec=decimals)
def test_affordable_seconds_are_the_most_that_fit(rate: int, atoms: int, dec: int) -> None:
    seconds = units.affordable_seconds(rate, atoms, dec)
    assert units.time_lock(rate, seconds, dec) <= atoms
    if seconds < units.UINT32_MAX:
        assert units.time_lock(rate, seconds + 1, dec) > atoms


def test_a_free_rate_affords_everything() -> None:
    assert units.affordable_seconds(0, 0) == units.UINT32_MAX


@given(
    gpu=st.integers(0, 10**12),
    others=st.tuples(*[st.integers(0, 10**9)] * 3),
    sizes=st.tuples(*[st.integers(0, 10**5)] * 4),
)
def test_a_rate_is_the_sum_of_prices_times_sizes(
    gpu: int, others: tuple[int, int, int], sizes: tuple[int, int, int, int]
) -> None:
    rate = Prices(gpu, *others).rate(Sizes(*sizes))
    cpu, memory, storage = others
    gib = Fraction(memory * sizes[2] + storage * sizes[3], 1024) * 1000
    exact = gpu * sizes[0] + cpu * sizes[1] + gib
    assert rate == exact.numerator // exact.denominator


def test_a_rate_beyond_64_bits_is_refused() -> None:
    assert Prices(units.UINT64_MAX).rate(Sizes(1)) == units.UINT64_MAX
    with pytest.raises(FieldError, match="/prices"):
        Prices(units.UINT64_MAX).rate(Sizes(2))


def test_gpu_milliseconds_of_a_share() -> None:
    assert units.gpu_ms(3_000, 250) == 750
    assert units.gpu_ms(1, 999) == 0


def test_usage_is_never_negative_and_covers_what_it_was() -> None:
    with pytest.raises(FieldError, match="/egress_mib"):
        UsageVector(1, egress_mib=-1)
    later = UsageVector(5, 5, 5, 5, 5, 5, 5)
    assert later.covers(UsageVector(5, 4, 5, 5, 5, 5, 0))
    assert not UsageVector(6, 5, 5, 5, 5, 5, 4).covers(later)
