"""Calldata, packed entries, fees and ABIs, without a node."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from settlement.attestation import MeteredUsage, Usage
from settlement.chain.abi import Abi, abi, artifact
from settlement.chain.calls import (
    MAX_ENTRIES,
    MAX_METERED,
    EscrowCalls,
    Match,
    SettlementEntry,
    open_batch_gas,
    pack_entries,
    runs_of,
    skipped_indexes,
    unpack_entries,
)
from settlement.errors import DeploymentError, FieldError, SignatureError
from settlement.fees import GWEI, FeeAdvice, FeePolicy, TransactionFees
from settlement.orders import Ask, Bid, Prices, Quote
from settlement.signing import LocalSigner
from settlement.vetting import call_of
from tests.struct_strategies import addresses, structs_of

ESCROW = "0x" + "11" * 20
SIGNER = LocalSigner(b"\x07" * 32)
SIGNATURE = SIGNER.sign_digest(b"\x09" * 32)
PROVIDERS = tuple("0x" + f"{i:02x}" * 20 for i in range(1, 4))


USAGE = Usage("0x" + "22" * 20, PROVIDERS[0], b"\x33" * 16, 5)
METERED = MeteredUsage("0x" + "22" * 20, PROVIDERS[0], b"\x33" * 16, 5, 6, 7)

providers, numbers = st.sampled_from(PROVIDERS), st.binary(min_size=16, max_size=16)
times, counts = st.integers(0, 2**40 - 1), st.integers(0, 2**32 - 1)
usages = st.builds(Usage, addresses, providers, numbers, times)
metered_usages = st.builds(MeteredUsage, addresses, providers, numbers, times, counts, counts)


def signed(voucher: Usage | MeteredUsage) -> SettlementEntry:
    return SettlementEntry(voucher, SIGNATURE)


@pytest.mark.parametrize(("kind", "metered"), [(usages, False), (metered_usages, True)])
@given(data=st.data())
def test_packed_entries_unpack_in_packed_order(
    kind: st.SearchStrategy[Usage | MeteredUsage], metered: bool, data: st.DataObject
) -> None:
    vouchers = data.draw(st.lists(kind.map(signed), min_size=1, max_size=20))
    packed = [one for run in runs_of(vouchers).values() for one in run]
    assert sorted(map(repr, packed)) == sorted(map(repr, vouchers))
    assert list(unpack_entries(pack_entries(vouchers, metered), metered)) == packed
    calls = EscrowCalls(ESCROW)
    assert list(calls.vouchers(calls.settle(vouchers, metered))) == packed


def test_an_entry_takes_105_bytes_and_a_metered_one_113() -> None:
    assert len(pack_entries([signed(USAGE)], False)) == 22 + 105
    assert len(pack_entries([signed(USAGE)] * 3, False)) == 22 + 3 * 105
    assert len(pack_entries([signed(METERED)], True)) == 22 + 113


@pytest.mark.parametrize("metered", [False, True])
def test_batches_are_bounded(metered: bool) -> None:
    most = MAX_METERED if metered else MAX_ENTRIES
    voucher = signed(METERED if metered else USAGE)
    assert pack_entries([voucher] * most, metered)
    for count in (0, most + 1):
        with pytest.raises(FieldError):
            pack_entries([voucher] * count, metered)


def test_a_voucher_of_the_other_kind_is_refused() -> None:
    for voucher, metered in ((METERED, False), (USAGE, True)):
        with pytest.raises(FieldError, match="this call takes vouchers of type"):
            pack_entries([signed(voucher)], metered)


def test_what_does_not_fit_an_entry_is_refused() -> None:
    with pytest.raises(FieldError, match="40 bits"):
        pack_entries([signed(replace(USAGE, ms=2**40))], False)
    with pytest.raises(SignatureError):
        pack_entries([SettlementEntry(USAGE, SIGNATURE[:64])], False)


@pytest.mark.parametrize(
    "entries",
    [b"\0", bytes(22), pack_entries([signed(USAGE)], False)[:-1], bytes(21) + b"\x01" + bytes(9)],
    ids=["one byte", "empty run", "cut", "short run"],
)
def test_malformed_entries_are_refused(entries: bytes) -> None:
    with pytest.raises(FieldError, match="malformed run"):
        unpack_entries(entries, False)


@pytest.mark.parametrize("data", [b"", b"\x01\x02\x03\x04", abi("ComputeEscrow").call("token")])
def test_another_call_is_not_a_settlement(data: bytes) -> None:
    with pytest.raises(FieldError):
        EscrowCalls(ESCROW).vouchers(data)


def test_a_settlement_cut_short_is_refused() -> None:
    calls = EscrowCalls(ESCROW)
    with pytest.raises(FieldError, match="malformed call"):
        calls.vouchers(calls.settle([signed(USAGE)])[:30])


@given(marked=st.sets(st.integers(0, 40)), count=st.integers(41, 60))
def test_bitmaps_read_lowest_bit_first(marked: set[int], count: int) -> None:
    bitmap = bytearray((count + 7) // 8)
    for i in marked:
        bitmap[i // 8] |= 1 << i % 8
    assert skipped_indexes(bytes(bitmap), count) == marked


@settings(max_examples=10)
@given(data=st.data())
def test_open_refuses_a_quote_without_its_signature(data: st.DataObject) -> None:
    ask, bid = data.draw(structs_of(Ask)), data.draw(structs_of(Bid))
    quote = Quote(bytes(32), Prices(1), 0)
    calls = EscrowCalls(ESCROW)
    assert calls.open(Match(ask, bid, b"a", b"b"))
    assert calls.open(Match(ask, bid, b"a", b"b", quote, b"q"))
    for broken in (Match(ask, bid, b"a", b"b", quote), Match(ask, bid, b"a", b"b", None, b"q")):
        with pytest.raises(FieldError, match="needs its signature"):
            calls.open(broken)


def test_open_batch_is_bounded_and_brings_its_gas() -> None:
    calls, gas = EscrowCalls(ESCROW), open_batch_gas(2)
    assert calls.payload(b"\x01", gas) == {"to": ESCROW, "data": "0x01", "gas": gas}
    assert gas > 600_000
    with pytest.raises(FieldError, match="200"):
        calls.open_batch([None] * 201)  # type: ignore[list-item]


def test_a_permit_with_a_malleable_signature_is_refused_here() -> None:
    with pytest.raises(SignatureError):
        EscrowCalls(ESCROW).deposit_with_permit(1, 2, SIGNATURE[:64] + b"\x01")


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"to": ESCROW},
        {"to": "0x1", "data": "0x"},
        {"to": ESCROW, "data": "0xzz"},
        {"to": ESCROW, "data": "0x", "value": "x"},
        {"to": ESCROW, "data": "0x", "gas": []},
    ],
)
def test_a_malformed_payload_is_refused(payload: dict[str, object]) -> None:
    with pytest.raises(FieldError):
        call_of(payload)


def test_a_payload_is_read_whole() -> None:
    call = call_of({"to": ESCROW, "data": "0x0102", "value": 3, "gas": 4})
    assert (call.to, call.data, call.value, call.gas) == (ESCROW, b"\x01\x02", 3, 4)
    assert call_of({"to": ESCROW, "data": "0x"}).gas is None


def test_revert_data_is_named_by_the_shipped_abi() -> None:
    known = Abi(artifact("ComputeEscrow").abi)
    selector_only = known.reverted(bytes.fromhex("4e487b71"))
    assert selector_only.name == "Panic"
    assert known.reverted(b"").name == "unknown"
    assert known.reverted(b"\x01\x02\x03\x04").arguments == ("0x01020304",)
    panic = known.reverted(bytes.fromhex("4e487b71") + (0x11).to_bytes(32, "big"))
    assert (panic.name, panic.arguments, str(panic)) == ("Panic", (17,), "Panic(17)")


def test_an_artifact_that_does_not_ship_is_a_deployment_error() -> None:
    with pytest.raises(DeploymentError, match="no artifact"):
        artifact("Nothing")


def test_code_is_compared_without_its_immutables() -> None:
    shipped = artifact("ComputeEscrow")
    assert shipped.immutables
    code = bytearray(shipped.deployed)
    start, length = shipped.immutables[0]
    code[start : start + length] = b"\xff" * length
    assert shipped.matches(bytes(code))
    code[start - 1] ^= 1
    assert not shipped.matches(bytes(code))
    assert not shipped.matches(b"")


fees = st.integers(0, 10**13)


@given(base=fees, tip=fees, cap=st.integers(1, 10**13))
def test_an_offer_never_exceeds_its_cap(base: int, tip: int, cap: int) -> None:
    offer = FeePolicy(cap=cap).offer(FeeAdvice(base, tip))
    if base > cap:
        assert offer is None
    else:
        assert offer is not None
        assert offer.priority <= offer.maximum <= cap
        assert offer.maximum >= min(base, cap)


@given(old=st.integers(1, 10**12), tip=st.integers(0, 10**12), base=fees)
def test_a_raised_offer_is_a_tenth_more_or_none(old: int, tip: int, base: int) -> None:
    policy, first = FeePolicy(), TransactionFees(old, min(tip, old))
    raised = policy.raised(first, FeeAdvice(base, GWEI))
    if raised is not None:
        assert raised.maximum <= policy.cap
        assert 10 * raised.maximum >= 11 * first.maximum
        assert 10 * raised.priority >= 11 * first.priority or raised.priority == raised.maximum
