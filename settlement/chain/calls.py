"""Calldata for every call of the escrow, built without a node.

Vouchers are packed as `Settling` in contracts reads them: one run per provider. A run is provider
20 | count 2, followed by `count` entries: buyer 20 | leaseNo 16 | ms 5 (| egressMib 4 | units 4) |
r 32 | vs 32. The numbers are bytes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypeVar

from settlement.attestation import Close, MeteredUsage, Stop, Usage, Voucher
from settlement.chain.abi import Abi, abi
from settlement.eip712 import ZERO_ADDRESS, Struct, checksum
from settlement.errors import FieldError
from settlement.orders import (
    Ask,
    Bid,
    Cancel,
    OpenedFrom,
    Prices,
    Quote,
    TopUp,
    Withdraw,
)
from settlement.signing import compact, expand
from settlement.units import UINT40_MAX

MAX_ENTRIES = 1_000
MAX_METERED = 500
MAX_LEASES = 200
_BATCH_GAS = 350_000  # one item may use 285,000
_OPEN_GAS = 150_000  # one item signed by keys, calldata included
_USAGE_BYTES = 105
_METERED_BYTES = 113
T = TypeVar("T")


class Previous(NamedTuple):
    """The lease a bid had before; None on its first open."""

    provider: str
    ask_hash: bytes
    prices_hash: bytes
    meter: str


class LeaseRef(NamedTuple):
    """What the escrow finds a lease by, in the order of its arguments."""

    buyer: str
    provider: str
    witness: str
    lease_no: bytes

    @property
    def unwitnessed(self) -> tuple[str, str, bytes]:
        """What signed messages name it by: a signer's key takes the place of the witness."""
        return self.buyer, self.provider, self.lease_no


@dataclass(frozen=True, slots=True)
class Match:
    """One ask and one bid with their signatures. A quote replaces the ask's prices.

    `seat` is the number of the bid's node, from 0.
    """

    ask: Ask
    bid: Bid
    ask_signature: bytes
    bid_signature: bytes
    quote: Quote | None = None
    quote_signature: bytes = b""
    previous: Previous | None = None
    seat: int = 0

    @property
    def prices(self) -> Prices:
        """The prices that the lease pays."""
        return self.quote.prices if self.quote is not None else self.ask.floor

    @property
    def opened(self) -> OpenedFrom:
        """What its lease is opened from."""
        return OpenedFrom(self.ask, self.bid, self.prices, self.seat)

    @property
    def ref(self) -> LeaseRef:
        """Its lease."""
        number = self.opened.lease_no
        return LeaseRef(self.bid.buyer, self.ask.provider, self.bid.witness, number)


@dataclass(frozen=True, slots=True)
class SettlementEntry:
    """A voucher and its witness's signature of 65 bytes."""

    voucher: Voucher
    signature: bytes


class EscrowCalls:
    """Builds calldata for one escrow. docs/escrow.md says what each one does."""

    def __init__(self, address: str) -> None:
        self.address = checksum(address)
        self._abi: Abi = abi("ComputeEscrow")

    def payload(self, data: bytes, gas: int | None = None) -> dict[str, Any]:
        """An outbox payload for a call. Without `gas` the relayer uses the node's estimate."""
        call = {"to": self.address, "data": "0x" + data.hex()}
        return call if gas is None else {**call, "gas": gas}

    def deposit(self, amount: int) -> bytes:
        return self._abi.call("deposit", amount)

    def deposit_with_permit(self, amount: int, deadline: int, signature: bytes) -> bytes:
        """Deposits with the sender's EIP-2612 permit (65 bytes)."""
        compact(signature)  # raises SignatureError for what the token would refuse
        vrs = (signature[64], signature[:32], signature[32:64])
        return self._abi.call("depositWithPermit", amount, deadline, *vrs)

    def withdraw(self, to: str, amount: int) -> bytes:
        return self._abi.call("withdraw", to, amount)

    def withdraw_by_signature(self, call: Withdraw, signature: bytes) -> bytes:
        """As `withdraw`, sent by anyone whom the signed call allows."""
        to = (call.account, call.to, call.amount)
        return self._abi.call("withdrawBySignature", *to, _relay(call), signature)

    def deposit_for(self, account: str, amount: int) -> bytes:
        return self._abi.call("depositFor", account, amount)

    def collect_fees(self, providers: Sequence[str]) -> bytes:
        return self._abi.call("collectFees", list(providers))

    def open(self, match: Match) -> bytes:
        return self._abi.call("open", _match(match))

    def open_all(self, matches: Sequence[Match]) -> bytes:
        """Opens all or none, for a bid of several nodes. Raises FieldError above 200."""
        return self._abi.call("openAll", _matches(matches))

    def open_batch(self, matches: Sequence[Match]) -> bytes:
        """Opens many and skips those that fail. Raises FieldError above 200.

        Send it with `open_batch_gas`: short of gas, it skips items, so an estimate is too low.
        """
        return self._abi.call("openBatch", _matches(matches))

    def cancel(self, cancel: Cancel, signature: bytes = b"") -> bytes:
        return self._abi.call("cancel", *as_tuple(cancel), signature)

    def top_up(self, opened: OpenedFrom, seconds: int) -> bytes:
        """Adds paid seconds to an active lease. For its buyer, or a purse's operator or owner."""
        return self._abi.call("topUp", *_opened(opened), seconds)

    def top_up_by_signature(self, opened: OpenedFrom, call: TopUp, signature: bytes) -> bytes:
        """As `top_up`, sent by anyone whom the signed call allows."""
        return self._abi.call(
            "topUpBySignature", *_opened(opened), call.add_seconds, _relay(call), signature
        )

    def settle(self, vouchers: Sequence[SettlementEntry], metered: bool = False) -> bytes:
        """Pays vouchers that are all `Usage`, or all `MeteredUsage` if `metered`.

        Raises FieldError above MAX_ENTRIES or MAX_METERED.
        """
        name = "settleMetered" if metered else "settle"
        return self._abi.call(name, pack_entries(vouchers, metered))

    def stop(self, lease: LeaseRef, again: bool = False) -> bytes:
        return self._abi.call("stop", lease, again)

    def stop_by_signature(
        self, lease: LeaseRef, stop: Stop, terms: bytes, signature: bytes
    ) -> bytes:
        """Stops a lease by what its buyer, witness or meter signed; `terms` proves the meter."""
        return self._abi.call("stopBySignature", lease, stop.again, stop.deadline, terms, signature)

    def free(self, leases: Sequence[LeaseRef]) -> bytes:
        """Stops leases whose end has passed. Raises FieldError above 200."""
        return self._abi.call("free", _bounded(leases))

    def close(self, close: Close, terms: bytes, by_meter: bytes, by_witness: bytes) -> bytes:
        """Closes a lease at usage that meter and witness both signed (65 bytes each)."""
        usage = (*as_tuple(close), terms)
        return self._abi.call("close", usage, *_r_vs(by_meter), *_r_vs(by_witness))

    def refund(self, lease: LeaseRef) -> bytes:
        return self._abi.call("refund", lease)

    def multicall(self, calls: Sequence[bytes]) -> bytes:
        """All calls in one transaction of one sender, or none."""
        return self._abi.call("multicall", list(calls))

    def create_purse(self, operator: str, salt: int, expiry: int, amount: int) -> bytes:
        return self._abi.call("createPurse", operator, salt, expiry, amount)

    def fund_purse(self, purse: str, amount: int) -> bytes:
        return self._abi.call("fundPurse", purse, amount)

    def sweep_purse(self, purse: str, amount: int) -> bytes:
        return self._abi.call("sweepPurse", purse, amount)

    def expire_purse(self, purse: str, expiry: int) -> bytes:
        return self._abi.call("expirePurse", purse, expiry)

    def vouchers(self, calldata: bytes) -> tuple[SettlementEntry, ...]:
        """The vouchers inside settle or settleMetered calldata, in entry order.

        Raises FieldError if it is another call or malformed.
        """
        metered = calldata[:4] == self._abi.call("settleMetered", b"")[:4]
        (entries,) = self._abi.arguments("settleMetered" if metered else "settle", calldata)
        return unpack_entries(entries, metered)


def open_batch_gas(count: int) -> int:
    """Gas for a batch of `count` that leaves even the last item what the escrow allows it."""
    return _BATCH_GAS + count * _OPEN_GAS


def pack_entries(vouchers: Sequence[SettlementEntry], metered: bool) -> bytes:
    """Entries as the escrow reads them: runs by provider, in the given order inside each run."""
    most = MAX_METERED if metered else MAX_ENTRIES
    if not 0 < len(vouchers) <= most:
        raise FieldError("", f"{len(vouchers)} vouchers; one call takes 1 to {most}")
    out: list[bytes] = []
    for provider, run in runs_of(vouchers).items():
        out += (_address(provider), len(run).to_bytes(2, "big"))
        out += (_entry(signed, metered) for signed in run)
    return b"".join(out)


def runs_of(vouchers: Iterable[SettlementEntry]) -> dict[str, list[SettlementEntry]]:
    """Vouchers by provider, in packing order."""
    runs: dict[str, list[SettlementEntry]] = {}
    for signed in vouchers:
        runs.setdefault(signed.voucher.provider, []).append(signed)
    return runs


def unpack_entries(entries: bytes, metered: bool) -> tuple[SettlementEntry, ...]:
    """Inverse of `pack_entries`, in entry order. Raises FieldError if a run is malformed."""
    size = _METERED_BYTES if metered else _USAGE_BYTES
    out: list[SettlementEntry] = []
    at = 0
    while at < len(entries):
        provider = checksum(entries[at : at + 20].hex())
        count = _int(entries[at + 20 : at + 22])
        first, at = at + 22, at + 22 + count * size
        if count == 0 or at > len(entries):
            raise FieldError("/entries", f"malformed run before offset {first}")
        run = (entries[i : i + size] for i in range(first, at, size))
        out += (_voucher(provider, entry, metered) for entry in run)
    return tuple(out)


def skipped_indexes(bitmap: bytes, count: int) -> frozenset[int]:
    """The entries that a bitmap marks: entry i is bit i mod 8 (lowest first) of byte i / 8."""
    return frozenset(i for i in range(count) if bitmap[i >> 3] >> (i & 7) & 1)


def _entry(signed: SettlementEntry, metered: bool) -> bytes:
    voucher = signed.voucher
    if isinstance(voucher, MeteredUsage) is not metered:
        kind = "MeteredUsage" if metered else "Usage"
        raise FieldError("", f"this call takes vouchers of type {kind}, not {voucher.primary}")
    if voucher.ms > UINT40_MAX:
        raise FieldError("/ms", "must fit 40 bits")
    figures = voucher.ms.to_bytes(5, "big")
    if isinstance(voucher, MeteredUsage):
        figures += voucher.egress_mib.to_bytes(4, "big") + voucher.units.to_bytes(4, "big")
    return _address(voucher.buyer) + voucher.lease_no + figures + compact(signed.signature)


def _voucher(provider: str, entry: bytes, metered: bool) -> SettlementEntry:
    names = (checksum(entry[:20].hex()), provider, entry[20:36], _int(entry[36:41]))
    if not metered:
        return SettlementEntry(Usage(*names), expand(entry[-64:]))
    counted = MeteredUsage(*names, _int(entry[41:45]), _int(entry[45:49]))
    return SettlementEntry(counted, expand(entry[-64:]))


def _int(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _matches(matches: Sequence[Match]) -> list[tuple[Any, ...]]:
    return [_match(match) for match in _bounded(matches)]


def _bounded(items: Sequence[T]) -> list[T]:
    if len(items) > MAX_LEASES:
        raise FieldError("", f"{len(items)} leases; one call takes at most {MAX_LEASES}")
    return list(items)


def _opened(opened: OpenedFrom) -> tuple[Any, ...]:
    prices_hash = opened.prices.struct_hash()
    return as_tuple(opened.ask), as_tuple(opened.bid), prices_hash, opened.seat


def _relay(call: Withdraw | TopUp) -> tuple[Any, ...]:
    return call.salt, call.deadline, call.relayer, call.fee


def _match(match: Match) -> tuple[Any, ...]:
    quote = match.quote or Quote(bytes(32), Prices(0), 0)
    previous = match.previous or Previous(ZERO_ADDRESS, bytes(32), bytes(32), ZERO_ADDRESS)
    if (match.quote is None) is not (match.quote_signature == b""):
        raise FieldError("/quote", "needs its signature, and a signature needs its quote")
    orders = (as_tuple(match.ask), as_tuple(match.bid), as_tuple(quote))
    signatures = (match.ask_signature, match.bid_signature, match.quote_signature)
    return *orders, previous, match.seat, *signatures


def _r_vs(signature: bytes) -> tuple[bytes, bytes]:
    short = compact(signature)
    return short[:32], short[32:]


def as_tuple(value: Any) -> Any:
    """A signed struct as eth-abi takes it: its signing order is also the ABI's order."""
    if isinstance(value, tuple):
        return [as_tuple(item) for item in value]
    if isinstance(value, Struct):
        return tuple(as_tuple(getattr(value, f.name)) for f in fields(value))  # type: ignore[arg-type]
    return value


def _address(value: str) -> bytes:
    return bytes.fromhex(value[2:])
