"""Signed structs travel as their EIP-712 messages, and their schema says what they take."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from marketplace.domain.drafts import KeyRequest
from marketplace.wire.base import AnyVoucher, Signed, TypedData, struct_schema
from marketplace.wire.problems import problems_of
from settlement.attestation import Close, MeteredUsage, Stop, Usage, UsageAttestation
from settlement.eip712 import Domain, Struct
from settlement.orders import Ask, Bid, Cancel, Prices, Quote
from tests.factories import make_ask, make_bid
from tests.struct_strategies import structs_of

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
