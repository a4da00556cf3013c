"""Money and prices at the edges: decimal text on one side, integers on the other.

A price is an integer of 1e-9 token ("nano"), money an integer of atoms. Decimal text is exact: too
many digits are an error, never rounded away.
"""

import re

from marketplace.domain.reader import Reader
from marketplace.errors import InvalidInput, Problem
from settlement.orders import Prices
from settlement.units import UINT64_MAX

CURRENCY = "CMP"
DECIMALS = 18
PRICE_DECIMALS = 9
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,59})(?:\.([0-9]{1,36}))?\Z")
_PRICE_NAMES = ("gpu_hour", "cpu_hour", "memory_gib_hour", "storage_gib_hour", "egress_gib", "unit")


def to_scaled(text: object, decimals: int, pointer: str = "") -> int:
    """Decimal text as an integer of 10^-decimals; raises InvalidInput if that is not exact."""
    match = _DECIMAL.match(text) if isinstance(text, str) and text.isascii() else None
    if match is None:
        detail = f'must be a decimal number in quotes, such as "2.50", not {text!r}'
        raise InvalidInput([Problem(pointer, detail)])
    whole, fraction = match.group(1), (match.group(2) or "").rstrip("0")
    if len(fraction) > decimals:
        raise InvalidInput([Problem(pointer, f"has more than {decimals} decimal places")])
    return int(whole + fraction.ljust(decimals, "0"))


def from_scaled(value: int, decimals: int) -> str:
    """The shortest decimal text of an integer of 10^-decimals."""
    sign, digits = ("-", -value) if value < 0 else ("", value)
    whole, fraction = divmod(digits, 10**decimals)
    tail = str(fraction).rjust(decimals, "0").rstrip("0") if fraction else ""
    return f"{sign}{whole}.{tail}" if tail else f"{sign}{whole}"


def to_nano(text: object) -> int:
    """A price's decimal text as 1e-9 token, at most 2^64-1."""
    value = to_scaled(text, PRICE_DECIMALS)
    if value > UINT64_MAX:
        raise InvalidInput([Problem("", "is above the largest price, 18446744073.709551615")])
    return value


def from_nano(value: int) -> str:
    """A price in 1e-9 token as decimal text."""
    return from_scaled(value, PRICE_DECIMALS)


def prices_from_json(data: object) -> Prices:
    """Prices from decimal texts; raises InvalidInput listing every wrong member."""
    if not isinstance(data, dict):
        raise InvalidInput([Problem("", "must be an object of prices per resource")])
    problems: list[Problem] = []
    reader = Reader(data, _PRICE_NAMES, problems)
    others = [reader.read(name, to_nano, 0) for name in _PRICE_NAMES[1:]]
    prices = Prices(reader.need(_PRICE_NAMES[0], to_nano, 0), *others)
    if problems:
        raise InvalidInput(problems)
    return prices


def prices_to_json(prices: Prices) -> dict[str, str]:
    """Every price as decimal text of tokens."""
    return {name: from_nano(getattr(prices, name)) for name in _PRICE_NAMES}
