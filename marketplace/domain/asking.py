"""From a provider's terms for a node to the ask that it signs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from marketplace.domain.pricing import prices_from_json
from marketplace.domain.reader import Reader, seconds_of, text_of, whole_of
from marketplace.errors import InvalidInput, Problem
from settlement.eip712 import ZERO_ADDRESS, text32
from settlement.errors import FieldError
from settlement.orders import FLAG_SHARED, Ask, Prices
from settlement.units import MAX_FEE_BPS, UINT32_MAX

DAY_S = 86_400
EXPIRY_MAX_S = 400 * DAY_S
# Name of each duration: what holds if the terms leave it out, and the most, in seconds.
DURATIONS = {
    "min_duration": (0, UINT32_MAX),
    "max_duration": (30 * DAY_S, UINT32_MAX),
    "start_limit": (600, UINT32_MAX),
    "expires_in": (30 * DAY_S, EXPIRY_MAX_S),
}
TERMS = (*DURATIONS, "meter", "prices", "unit", "max_fee_bps", "opener")


class NodeState(StrEnum):
    """Whether a node takes new jobs: `away` until its agent is heard of again."""

    ACTIVE = "active"
    DRAINING = "draining"
    AWAY = "away"


class AskState(StrEnum):
    """`suspended`: not on the book for now; `reason` says why."""

    OPEN = "open"
    SUSPENDED = "suspended"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class AskingNode:
    """What a node sells: which it is, and all that it has."""

    provider: str
    number: int
    tier: str
    gpu_count: int
    cpu_milli: int
    memory_mib: int
    storage_mib: int
    shared: bool


def ask_of(
    node: AskingNode, terms: Mapping[str, Any], *, opener: str, fee_bps: int, now: int, salt: int
) -> Ask:
    """The ask that a provider signs for a node. `terms` has prices (decimal texts, or `Prices`) and
    durations as text.

    `opener` and `fee_bps` are the market's, unless the terms have others; `now` is Unix time in
    seconds. Raises InvalidInput with every mistake in the terms.
    """
    problems: list[Problem] = []
    reader = Reader(dict(terms), TERMS, problems)
    seconds = {
        name: reader.read(name, _duration(most), default)
        for name, (default, most) in DURATIONS.items()
    }
    prices = reader.need("prices", _prices, Prices(0))
    unit = reader.read("unit", text_of(32, r"[A-Za-z][A-Za-z0-9_-]*"), "")
    max_fee_bps = reader.read("max_fee_bps", whole_of(0, MAX_FEE_BPS), fee_bps)
    meter = reader.need("meter", text_of(42), ZERO_ADDRESS)
    named_opener = reader.read("opener", text_of(42), opener)
    if problems:
        raise InvalidInput(problems)
    try:
        return Ask(
            provider=node.provider,
            meter=meter,
            opener=named_opener,
            node=node.number,
            tier=text32(node.tier),
            gpu_milli=node.gpu_count * 1000,
            cpu_milli=node.cpu_milli,
            memory_mib=node.memory_mib,
            storage_mib=node.storage_mib,
            floor=prices,
            min_seconds=seconds["min_duration"],
            max_seconds=seconds["max_duration"],
            start_limit_seconds=seconds["start_limit"],
            unit=text32(unit) if unit else bytes(32),
            starts_at=0,
            flags=FLAG_SHARED if node.shared else 0,
            max_fee_bps=max_fee_bps,
            expiry=now + seconds["expires_in"],
            salt=salt,
        )
    except FieldError as error:
        raise InvalidInput([Problem(error.pointer, error.detail)]) from error


def _duration(most: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        seconds = seconds_of(value)
        if seconds > most:
            raise ValueError(f"must be at most {most}s")
        return seconds

    return parse


def _prices(data: object) -> Prices:
    if isinstance(data, Prices):
        return data
    if not isinstance(data, dict):
        raise ValueError("must be an object of prices per resource")
    return prices_from_json(data)
