"""JSON becomes typed values, and what does not fit is named."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from marketplace.sdk.decode import decode
from marketplace.sdk.errors import ProtocolError
from marketplace.sdk.models import Money, Terms
from settlement.orders import Prices


@dataclass(frozen=True, slots=True)
class Part:
    number: int


@dataclass(frozen=True, slots=True)
class Whole:
    name: str
    at: datetime
    parts: tuple[Part, ...]
    raw: bytes = b""
    maybe: Part | None = None
    free: Any = None
    on: bool = False


def whole(**changes: Any) -> dict[str, Any]:
    return {"name": "n", "at": "2026-01-02T03:04:05Z", "parts": [{"number": 1}], **changes}


def test_object_is_read_with_its_parts() -> None:
    read = decode(Whole, whole(raw="0x00ff", maybe={"number": "7"}, free=[1], on=True, new=1))
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert read == Whole("n", at, (Part(1),), b"\x00\xff", Part(7), [1], True)


def test_money_is_exact() -> None:
    atoms = 1234567890123456789
    body = {"amount": "1.234567890123456789", "currency": "CMP", "atoms": str(atoms)}
    money = decode(Money, body)
    assert money == Money(Decimal("1.234567890123456789"), "CMP", atoms)
    assert str(money) == "1.234567890123456789 CMP"


def test_signed_struct_is_read_in_its_own_form() -> None:
    body = {
        "rate": "2000000000000",
        "prices": Prices(2_000_000_000).to_message(),
        "funded_seconds": 60,
        "end": 1_800_000_060,
        "gpu_milli": 1000,
        "lock": {"amount": "1", "currency": "CMP", "atoms": "1"},
    }
    terms = decode(Terms, body)
    assert terms.prices == Prices(2_000_000_000)
    assert (terms.rate, terms.start) == (2_000_000_000_000, 1_800_000_000)


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ([], "/"),
        ({"name": "n"}, "/at: missing"),
        (whole(name=1), "/name"),
        (whole(at="yesterday"), "/at"),
        (whole(at=5), "/at"),
        (whole(parts={}), "/parts"),
        (whole(parts=[{"number": 1}, {"number": "x"}]), "/parts/1/number"),
        (whole(parts=[{"number": True}]), "/parts/0/number"),
        (whole(parts=[{"number": 1.5}]), "/parts/0/number"),
        (whole(parts=[{"number": "9" * 5_000}]), "/parts/0/number"),
        (whole(raw="0xzz"), "/raw"),
        (whole(maybe=3), "/maybe"),
        (whole(on="yes"), "/on"),
    ],
)
def test_what_does_not_fit_is_named(body: Any, where: str) -> None:
    with pytest.raises(ProtocolError, match=where):
        decode(Whole, body)


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "1e999999999", "9" * 81, "", "1_0", " 1"])
def test_amount_that_is_no_plain_number_is_refused(amount: str) -> None:
    with pytest.raises(ProtocolError, match="/amount"):
        decode(Money, {"amount": amount, "currency": "CMP", "atoms": "1"})


def test_malformed_struct_is_named() -> None:
    with pytest.raises(ProtocolError, match="/gpuHour"):
        decode(Prices, {**Prices(1).to_message(), "gpuHour": "-1"})
