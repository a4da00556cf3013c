"""Prices travel as decimal texts and are settlement's `Prices` in Python."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from pydantic import TypeAdapter, ValidationError

from marketplace.wire.base import DecimalPrices
from marketplace.wire.problems import problems_of
from settlement.orders import Prices
from tests.struct_strategies import structs_of

ADAPTER: TypeAdapter[Prices] = TypeAdapter(DecimalPrices)


@given(structs_of(Prices))
def test_prices_survive_the_wire_and_fit_their_schema(prices: Prices) -> None:
    json = ADAPTER.dump_python(prices, mode="json")
    assert ADAPTER.validate_python(json) == prices
    jsonschema.validate(json, ADAPTER.json_schema(mode="serialization"))
    jsonschema.validate(json, ADAPTER.json_schema(mode="validation"))


def test_prices_that_are_not_said_are_zero() -> None:
    assert ADAPTER.validate_python({"gpu_hour": "2.50", "unit": None}) == Prices(2_500_000_000)
    jsonschema.validate({"gpu_hour": "2.50", "unit": None}, ADAPTER.json_schema())


@pytest.mark.parametrize(
    ("prices", "pointers"),
    [
        ({"gpu_hour": 2.5}, ["/gpu_hour"]),
        ({"gpu_hour": "-1"}, ["/gpu_hour"]),
        ({}, ["/gpu_hour"]),
        ({"gpu_hour": "1", "gpu": "1"}, ["/gpu"]),
        ({"gpu": "1", "unit": "x"}, ["/gpu", "/unit", "/gpu_hour"]),
        ("2.50", [""]),
    ],
)
def test_every_wrong_price_is_named(prices: Any, pointers: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python(prices)
    assert [p.pointer for p in problems_of(caught.value.errors())] == pointers
