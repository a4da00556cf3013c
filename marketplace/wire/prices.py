"""Prices on the wire: `settlement.orders.Prices` in Python, decimal texts of the token in JSON."""

from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from marketplace.domain.pricing import prices_from_json, prices_to_json
from marketplace.errors import InvalidInput
from marketplace.wire.base import written, wrong, wrong_at
from settlement.orders import Prices

_EXAMPLE = Prices(2_500_000_000)
_UNITS = {
    "gpu_hour": "per hour and GPU",
    "cpu_hour": "per hour and core",
    "memory_gib_hour": "per hour and GiB of memory",
    "storage_gib_hour": "per hour and GiB of storage",
    "egress_gib": "per GiB of egress",
    "unit": "per counted unit",
}


class PriceTexts:
    """Marks `Prices` that travel as {gpu_hour, cpu_hour, …}, each a decimal text."""

    def _read(self, value: object) -> Prices:
        if isinstance(value, Prices):
            return value
        if not isinstance(value, dict):
            raise wrong("must be an object of prices per resource")
        try:
            return prices_from_json(value)
        except InvalidInput as error:
            raise wrong_at(error.problems) from None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._read, serialization=written(prices_to_json, dict)
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        asked = handler.mode == "validation"
        names = ["gpu_hour"] if asked else list(_UNITS)
        text = {
            "type": ["string", "null"] if asked else "string",
            "pattern": r"^(0|[1-9][0-9]*)(\.[0-9]{1,9})?$",
        }
        return {
            "type": "object",
            "title": "DecimalPrices",
            "description": "Decimal texts of the token.",
            "properties": {name: {**text, "description": unit} for name, unit in _UNITS.items()},
            "required": names,
            "additionalProperties": False,
            "examples": [prices_to_json(_EXAMPLE)],
        }


DecimalPrices = Annotated[Prices, PriceTexts()]
