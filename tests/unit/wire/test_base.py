"""What travels: typed values in Python, text in JSON, and schemas that say what is taken."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from marketplace.domain.drafts import KeyRequest
from marketplace.domain.job import KEYS, parse_job
from marketplace.wire.base import (
    Answer,
    AnyVoucher,
    Body,
    DecimalPrices,
    DecimalText,
    Hash32,
    IntText,
    KeySignature,
    Many,
    Money,
    Page,
    Signed,
    Time,
    TypedData,
    struct_schema,
    time_of,
    time_or_none,
    time_text,
)
from marketplace.wire.jobfile import JobDocument, JobFile
from marketplace.wire.problems import problems_of
from settlement.attestation import Close, MeteredUsage, Stop, Usage, UsageAttestation
from settlement.eip712 import Domain, Struct
from settlement.orders import Ask, Bid, Cancel, Prices, Quote
from tests.factories import job_json, make_ask, make_bid, make_job
from tests.struct_strategies import structs_of


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


# Signed structs

KINDS: tuple[type[Struct], ...] = (
    Ask, Bid, Cancel, Close, KeyRequest, MeteredUsage, Prices, Quote, Stop, Usage, UsageAttestation
)  # fmt: skip


def adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(Signed[kind])


@given(st.data())
def test_a_struct_survives_the_wire_and_fits_its_schema(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    struct = data.draw(structs_of(kind))
    message = adapter(kind).dump_python(struct, mode="json")
    assert message == struct.to_message()
    assert adapter(kind).validate_python(message) == struct
    assert adapter(kind).validate_json(adapter(kind).dump_json(struct)) == struct
    jsonschema.validate(message, adapter(kind).json_schema())


def test_python_keeps_the_struct_itself() -> None:
    ask = make_ask()
    assert adapter(Ask).validate_python(ask) is ask


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"other": 1}, "/other"),
        ({"salt": None}, "/salt"),
        ({"gpuMilli": 2**32}, "/gpuMilli"),
        ({"jobHash": "0x00"}, "/jobHash"),
        ({"limits": [{"tier": 1}]}, "/limits/0/tier"),
        ({"buyer": "0x12"}, "/buyer"),
    ],
)
def test_a_wrong_member_is_named_by_its_pointer(change: dict[str, Any], pointer: str) -> None:
    message = {**make_bid().to_message(), **change}
    with pytest.raises(ValidationError) as caught:
        adapter(Bid).validate_python(message)
    (problem,) = problems_of(caught.value.errors())
    assert problem.pointer == pointer
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(message, struct_schema(Bid))


def test_a_missing_member_is_named() -> None:
    message = make_bid().to_message()
    del message["expiry"]
    with pytest.raises(ValidationError) as caught:
        adapter(Bid).validate_python(message)
    (problem,) = problems_of(caught.value.errors())
    assert (problem.pointer, problem.detail) == ("/expiry", "missing")


def test_a_voucher_is_known_by_its_members() -> None:
    parties = ("0x" + "11" * 20, "0x" + "22" * 20, b"\x01" * 16)
    reads: TypeAdapter[Any] = TypeAdapter(AnyVoucher)
    for voucher in (Usage(*parties, 5), MeteredUsage(*parties, 5, 0, 0)):
        message = reads.dump_python(voucher, mode="json")
        assert reads.validate_python(message) == voucher
        jsonschema.validate(message, reads.json_schema())


def test_a_typed_data_document_is_the_one_that_wallets_sign() -> None:
    domain = Domain(31_337, "0x" + "ec" * 20)
    document = TypedData.of(make_ask(), domain)
    assert document.to_json() == make_ask().typed_data(domain)
    assert document.domain.chain_id == 31_337
    assert TypedData.model_validate(document.to_json()) == document


# Prices

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


# Job files

FULL = job_json(
    image="repo/img@sha256:abc",
    env={"EPOCHS": "3"},
    inputs={"sha256": "ab" * 32, "size": 5},
    retry={"on_events": ["error"], "duration": "1h"},
    outputs=[{"path": "/out"}],
    tags={"team": "nlp"},
    units={"name": "request", "max": 10, "max_price": "0.1"},
    egress={"max": "1GB", "max_price": "0.1"},
)


def test_every_part_of_a_spec_has_a_schema() -> None:
    document, schema = parse_job(FULL).to_json(), TypeAdapter(JobDocument).json_schema()
    assert list(document) == [name for name in schema["properties"] if name != "workdir"]
    assert set(schema["properties"]) == set(KEYS)
    for spec in (document, make_job().to_json()):
        jsonschema.validate(spec, schema)
    assert schema["required"] == list(make_job().to_json())
    with pytest.raises(jsonschema.ValidationError):  # it would change the hash
        jsonschema.validate({**document, "other": 1}, schema)


def test_the_schema_of_job_files_takes_short_and_normalised_forms() -> None:
    schema = TypeAdapter(JobFile).json_schema()
    for file in (
        job_json(),
        FULL,
        make_job().to_json(),
        {"command": "nvidia-smi", "pricing": {"max_gpu_hour": "1"}, "max_duration": "1h"},
        job_json(resources={"gpu": 1, "cpu": 0.5}),
    ):
        jsonschema.validate(file, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job_json(other=1), schema)
