"""Money and prices at the edges: exact, or refused."""

import pytest

from marketplace.domain.pricing import (
    from_nano,
    from_scaled,
    prices_from_json,
    prices_to_json,
    to_nano,
    to_scaled,
)
from marketplace.errors import InvalidInput
from settlement.orders import Prices


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
        to_nano(text, "/price")
    assert [problem.pointer for problem in caught.value.problems] == ["/price"]


def test_amounts_are_exact_at_any_number_of_decimals() -> None:
    assert from_scaled(1, 18) == "0.000000000000000001"
    assert from_scaled(150, 2) == "1.5"
    assert to_scaled("1.5", 2) == 150


def test_negative_amounts_keep_their_sign() -> None:
    assert from_scaled(-1, 3) == "-0.001"


def test_prices_read_back_what_they_show() -> None:
    prices = Prices(2_500_000_000, 1, 20, 300, 4000, 500_000)
    assert prices_from_json(prices_to_json(prices)) == prices
    assert prices_from_json({"gpu_hour": "1", "unit": None}) == Prices(10**9)


def test_every_wrong_price_is_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        prices_from_json({"cpu_hour": "x", "gpuhour": "1"}, "/prices")
    pointers = {problem.pointer for problem in caught.value.problems}
    assert pointers == {"/prices/cpu_hour", "/prices/gpuhour", "/prices/gpu_hour"}
