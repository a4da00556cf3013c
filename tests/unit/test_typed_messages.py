"""Typed structs as JSON: a malformed member is refused by name, and nothing is guessed."""

from typing import Any

import pytest

from settlement.attestation import Usage, UsageAttestation, voucher_for
from settlement.eip712 import Domain, checksum, encode_type, from_text32, text32
from settlement.errors import FieldError
from settlement.orders import Ask, Bid, Quote, TierLimit
from tests.struct_strategies import STRUCTS

BUYER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
PROVIDER = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"
USAGE = Usage(BUYER, PROVIDER, b"\x01" * 16, 5)


def message(**changes: Any) -> dict[str, Any]:
    return USAGE.to_message() | changes


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("ms", [-1, 2**64, 1.0, True, "1e3", "05", "٣", "9" * 79, None]),
        ("buyer", ["0x12", BUYER[2:], BUYER.replace("C8", "c8"), 5]),
        ("leaseNo", ["0x" + "00" * 15, "0x" + "00" * 17, "0xzz", "0x0", 1]),
        ("extra", [1]),
    ],
)
def test_a_malformed_member_is_named(name: str, wrong: list[Any]) -> None:
    for value in wrong:
        with pytest.raises(FieldError) as caught:
            Usage.from_message(message(**{name: value}))
        assert caught.value.pointer == f"/{name}", value


def test_a_missing_member_is_named() -> None:
    document = message()
    del document["ms"]
    with pytest.raises(FieldError, match="/ms: missing"):
        Usage.from_message(document)


@pytest.mark.parametrize("document", [None, [], "text", 5])
def test_a_message_that_is_not_an_object_is_refused(document: Any) -> None:
    with pytest.raises(FieldError, match="/: must be an object"):
        Usage.from_message(document)


def test_nested_members_are_named_by_their_path() -> None:
    quote = {"askHash": "0x" + "00" * 32, "expiry": 5, "prices": {"gpuHour": "x"}}
    with pytest.raises(FieldError) as caught:
        Quote.from_message(quote)
    assert caught.value.pointer.startswith("/prices/")
    limit = TierLimit(text32("A100"), 1).to_message() | {"rate": "-1"}
    bid = {name: 0 for _, name in Bid.schema} | {"limits": [limit]}
    with pytest.raises(FieldError) as caught:
        Bid.from_message(bid, "/bid")
    assert caught.value.pointer.startswith("/bid/")


@pytest.mark.parametrize("limits", [None, {}, "x", [5]])
def test_a_malformed_list_is_refused(limits: Any) -> None:
    with pytest.raises(FieldError):
        Bid.from_message({name: 0 for _, name in Bid.schema} | {"limits": limits})


def test_addresses_are_normalised_and_checked() -> None:
    lower = Usage(BUYER.lower(), PROVIDER.upper().replace("0X", "0x"), b"\x01" * 16, 5)
    assert lower == USAGE
    with pytest.raises(FieldError, match=f"did you mean {BUYER}"):
        Usage(swap(BUYER), PROVIDER, b"\x01" * 16, 5)


def swap(address: str) -> str:
    """The address with the case of one letter changed."""
    at = next(i for i in range(2, 42) if address[i].isalpha())
    return address[:at] + address[at].swapcase() + address[at + 1 :]


@pytest.mark.parametrize(
    "address",
    [  # Source: the examples of EIP-55
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    ],
)
def test_checksums_are_those_of_the_standard(address: str) -> None:
    assert checksum(address.lower()) == address


def test_encode_type_lists_referenced_structs_after() -> None:
    assert encode_type(Usage) == "Usage(address buyer,address provider,bytes16 leaseNo,uint64 ms)"
    assert encode_type(Quote).startswith(
        "Quote(bytes32 askHash,Prices prices,uint40 expiry)Prices("
    )
    assert encode_type(Bid).endswith(
        "TierLimit(bytes32 tier,uint64 rate,uint64 egressGib,uint64 unit)"
    )
    assert encode_type(Ask).count("Prices(") == 1


def test_no_two_structs_share_a_type() -> None:
    assert len({encode_type(kind) for kind in STRUCTS}) == len(STRUCTS)


def test_text_fits_a_word_and_comes_back() -> None:
    assert text32("request") == b"request".ljust(32, b"\0")
    assert from_text32(text32("H100-80GB-SXM")) == "H100-80GB-SXM"
    assert from_text32(bytes(32)) == ""
    for wrong in ("a" * 33, "é", "a\nb", "a\0b"):
        with pytest.raises(FieldError):
            text32(wrong)
    for word in (b"\xff" * 32, b"a\0b".ljust(32, b"\0"), b"\x07".ljust(32, b"\0")):
        with pytest.raises(FieldError):
            from_text32(word)


def test_big_numbers_travel_as_text_and_small_ones_as_numbers() -> None:
    assert USAGE.to_message()["ms"] == "5"
    zeros = (0, 0, 0, 0, 0, 0, 0, 0)
    attested = UsageAttestation(BUYER, PROVIDER, b"\x01" * 16, 7, *zeros, b"\0" * 32)
    assert attested.to_message()["sequence"] == 7
    assert Usage.from_message(message(ms=5)) == Usage.from_message(message(ms="5"))


def test_a_domain_depends_on_every_part() -> None:
    base = Domain(1, BUYER)
    others = [Domain(2, BUYER), Domain(1, PROVIDER), Domain(1, BUYER, "Other"),
              Domain(1, BUYER, version="2")]  # fmt: skip
    assert len({d.separator() for d in (base, *others)}) == 5


@pytest.mark.parametrize("metered", [False, True])
def test_a_voucher_repeats_what_was_attested(metered: bool) -> None:
    attested = UsageAttestation(
        BUYER, PROVIDER, b"\x01" * 16, 3, 1_700_000_000_000, 61_000, 1, 2, 3, 4, 55, 66, b"\0" * 32
    )
    voucher = voucher_for(attested, metered)
    assert voucher.primary == ("MeteredUsage" if metered else "Usage")
    assert (voucher.buyer, voucher.lease_no, voucher.ms) == (BUYER, b"\x01" * 16, 61_000)
    if metered:
        assert voucher.to_message()["egressMib"] == 55
        assert voucher.to_message()["units"] == 66
    assert attested.usage().units == 66
