"""Money at the edges is exact or refused; receipts by example; how reliable a provider is."""

from dataclasses import replace

import pytest

from marketplace.domain.pricing import from_nano, from_scaled, to_nano, to_scaled
from marketplace.domain.receipt import ReceiptInput, charges_of, gpu_seconds, split
from marketplace.domain.reliability import NEWCOMER_MILLI, reliability_milli
from marketplace.errors import InvalidInput
from settlement.orders import Prices
from settlement.units import Sizes
from settlement.usage import UsageVector
from tests.factories import NANO


@pytest.mark.parametrize(
    ("text", "nano"),
    [("2.50", 2_500_000_000), ("0", 0), ("0.000000001", 1), ("18446744073.709551615", 2**64 - 1)],
)
def test_price_text_is_read_exactly(text: str, nano: int) -> None:
    assert to_nano(text) == nano
    assert to_nano(from_nano(nano)) == nano


@pytest.mark.parametrize(
    "text",
    ["", "-1", "1e3", "1,5", ".5", "5.", "01", "0.0000000001", "18446744073.709551616", "٣", "1 ",
     2.5, 2, None, True, "1" * 80],
)  # fmt: skip
def test_price_that_is_not_exact_decimal_text_is_refused(text: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        to_nano(text)
    assert len(caught.value.problems) == 1


def test_amounts_are_exact_at_any_number_of_decimals() -> None:
    assert from_scaled(1, 18) == "0.000000000000000001"
    assert from_scaled(150, 2) == "1.5"
    assert to_scaled("1.5", 2) == 150
    assert from_scaled(-1, 3) == "-0.001"


ONE = 10**18
PLAIN = ReceiptInput(
    prices=Prices(2 * NANO),
    sizes=Sizes(1000),
    unit="",
    used=UsageVector(ms=1_800_000, gpu_ms=1_800_000),
    locked=2 * ONE,
    released=ONE,
    refunded=ONE,
    fee_bps=100,
)


def test_half_an_hour_at_two_tokens_costs_one() -> None:
    receipt = charges_of(PLAIN)
    assert (receipt.gross, receipt.fee, receipt.net) == (ONE, ONE // 100, ONE - ONE // 100)
    assert receipt.conserved
    [line] = receipt.lines
    assert (line.resource, line.quantity, line.unit) == ("gpu", "1800", "GPU-seconds")
    assert (line.price, line.price_unit, line.atoms) == ("2", "per GPU-hour", ONE)


def test_every_resource_has_its_line() -> None:
    source = replace(
        PLAIN,
        prices=Prices(2 * NANO, NANO // 10, NANO // 100, NANO // 1000, NANO, NANO // 2),
        sizes=Sizes(500, 2000, 1024, 2048),
        unit="request",
        used=UsageVector(ms=3_600_000, egress_mib=512, units=3),
    )
    lines = {line.resource: line for line in charges_of(source).lines}
    assert {name: line.atoms * 1000 // ONE for name, line in lines.items()} == {
        "gpu": 1_000, "cpu": 200, "memory": 10, "storage": 2, "egress": 500, "units": 1_500,
    }  # fmt: skip
    assert {name: (line.quantity, line.unit) for name, line in lines.items()} == {
        "gpu": ("1800", "GPU-seconds"), "cpu": ("7200", "core-seconds"),
        "memory": ("3600", "GiB-seconds"), "storage": ("7200", "GiB-seconds"),
        "egress": ("0.5", "GiB"), "units": ("3", "request"),
    }  # fmt: skip


@pytest.mark.parametrize("change", [{"released": ONE - 1}, {"refunded": ONE + 1}, {"locked": 1}])
def test_receipt_that_does_not_balance_says_so(change: dict[str, int]) -> None:
    assert not charges_of(replace(PLAIN, **change)).conserved


def test_largest_remainders_get_the_rest_and_equal_ones_go_first() -> None:
    assert split(10, [1, 1, 1]) == (4, 3, 3)
    assert split(11, [1, 2, 3]) == (2, 4, 5)
    assert split(2, [1, 1, 98]) == (0, 0, 2)
    assert split(0, [0, 0]) == (0, 0)
    with pytest.raises(ValueError, match="among nothing"):
        split(1, [0])


def test_gpu_seconds_of_a_share() -> None:
    assert gpu_seconds(1500, 250) == "0.375"
    assert gpu_seconds(60_000, 8000) == "480"


@pytest.mark.parametrize(
    ("ended", "broken", "milli"),
    [(0, 0, NEWCOMER_MILLI), (0, 0, 950), (1, 0, 952), (1, 1, 904), (20, 0, 975), (20, 1, 950),
     (200, 0, 995), (200, 200, 86)],
)  # fmt: skip
def test_a_share_of_leases_kept_with_twenty_to_begin_with(
    ended: int, broken: int, milli: int
) -> None:
    assert reliability_milli(ended, broken) == milli
