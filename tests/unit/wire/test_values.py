"""Times, numbers, bytes, money: typed in Python, text in JSON."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from marketplace.wire.base import (
    Answer,
    Body,
    DecimalText,
    Hash32,
    IntText,
    KeySignature,
    Many,
    Money,
    Page,
    Time,
    time_of,
    time_or_none,
    time_text,
)
from marketplace.wire.problems import problems_of


class Sample(Answer):
    at: Time
    rate: IntText
    price: DecimalText
    hash: Hash32
    names: Many[str]


JSON = {
    "at": "2027-01-15T08:00:00.250Z",
    "rate": "18446744073709551616",
    "price": "2.50",
    "hash": "0x" + "ab" * 32,
    "names": ["a", "b"],
}


class Asked(Body):
    count: int
    text: str = ""


def test_a_model_has_typed_values_and_its_json_is_what_was_read() -> None:
    read = Sample.model_validate(JSON)
    assert read.at == datetime(2027, 1, 15, 8, 0, 0, 250_000, UTC)
    assert (read.rate, read.price, read.hash) == (2**64, Decimal("2.5"), b"\xab" * 32)
    assert read.names == ("a", "b")
    assert read.to_json() == JSON
    assert Sample.model_validate_json(read.model_dump_json()) == read


def test_models_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(Sample.model_validate(JSON), "rate", 3)  # noqa: B010 - mypy refuses it, too


@given(st.integers(min_value=0, max_value=253_402_300_799_999))
def test_time_of_milliseconds_is_exact(ms: int) -> None:
    moment = time_of(ms)
    assert (moment - time_of(0)) // timedelta(milliseconds=1) == ms
    adapter = TypeAdapter[datetime](Time)
    assert adapter.validate_python(time_text(moment)) == moment


def test_time_is_written_in_utc_with_milliseconds() -> None:
    assert time_text(time_of(0)) == "1970-01-01T00:00:00.000Z"
    assert time_text(datetime(2027, 1, 1, 9, tzinfo=timezone(timedelta(hours=1)))) == (
        "2027-01-01T08:00:00.000Z"
    )
    assert time_or_none(None) is None


@pytest.mark.parametrize(
    "text",
    ["2027-01-15", "2027-01-15T08:00:00", "2027-01-15 08:00:00Z", "20270115T080000Z", 0, None,
     "2027-13-15T08:00:00Z", "9999-12-31T23:59:59-01:00", datetime(2027, 1, 1)],
)  # fmt: skip
def test_time_without_zone_or_in_another_form_is_refused(text: Any) -> None:
    with pytest.raises(ValidationError, match="RFC 3339"):
        TypeAdapter(Time).validate_python(text)


@pytest.mark.parametrize("text", ["-1", "1.0", "01", "", " 1", "1e3", "٣", True, 1.0, -1, None])
def test_integer_text_takes_decimal_digits_only(text: Any) -> None:
    with pytest.raises(ValidationError, match="whole number"):
        TypeAdapter(IntText).validate_python(text)


@pytest.mark.parametrize(
    "text", ["-1", "1.", ".5", "01.5", "1e3", "NaN", "Infinity", "٣", 1.5, 1, Decimal("NaN"), None]
)
def test_decimal_text_takes_plain_decimals_only(text: Any) -> None:
    with pytest.raises(ValidationError, match="decimal number"):
        TypeAdapter(DecimalText).validate_python(text)


@pytest.mark.parametrize("text", ["", "0x", "0x" + "0" * 129, "0x" + "g" * 130, "1" * 130, 5])
def test_signature_of_a_key_has_65_bytes(text: Any) -> None:
    with pytest.raises(ValidationError, match="0x and 130 hexadecimal digits"):
        TypeAdapter(KeySignature).validate_python(text)


@given(st.integers(min_value=0, max_value=2**128), st.integers(min_value=0, max_value=36))
def test_money_is_exact_for_people_and_machines(atoms: int, decimals: int) -> None:
    money = Money.of(atoms, "CMP", decimals)
    assert money.amount * 10**decimals == atoms or decimals + len(str(atoms)) > 28
    json = money.to_json()
    assert json["atoms"] == str(atoms)
    assert "E" not in json["amount"]
    assert Money.model_validate(json) == money


def test_money_reads_as_people_say_it() -> None:
    money = Money.of(1_234_567_000_000_000_000, "CMP", 18)
    assert str(money) == "1.234567 CMP"
    assert money.to_json() == {
        "amount": "1.234567", "currency": "CMP", "atoms": "1234567000000000000"
    }  # fmt: skip


def test_an_answer_ignores_what_it_does_not_know_and_misses_what_it_lacks() -> None:
    assert Sample.model_validate({**JSON, "new": 1}).to_json() == JSON
    with pytest.raises(ValidationError, match="Field required"):
        Sample.model_validate({k: v for k, v in JSON.items() if k != "rate"})


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"count": "1"}, "/count"),
        ({"count": True}, "/count"),
        ({"count": 1.0}, "/count"),
        ({"count": 1, "text": 2}, "/text"),
        ({"count": 1, "other": 2}, "/other"),
        ({}, "/count"),
    ],
)
def test_a_body_coerces_nothing_and_takes_no_other_members(body: Any, pointer: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Asked.model_validate(body)
    assert [p.pointer for p in problems_of(caught.value.errors())] == [pointer]


def test_a_page_is_named_for_what_it_lists() -> None:
    page = Page[Money](data=(Money.of(1, "CMP", 18),), has_more=False, next_cursor=None)
    assert type(page).__name__ == "MoneyPage"
    assert Page[Money].model_validate(page.to_json()) == page
