"""Calldata for every call of the escrow, built without a node.

Packed entries mirror `Settling` in contracts: runs of provider 20 | count 2, then per entry
buyer 20 | leaseNo 16 | ms 5 (| egressMib 4 | units 4) | r 32 | vs 32.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from settlement.attestation import Close, MeteredUsage, Usage, Voucher
from settlement.chain.abi import Abi, abi
from settlement.eip712 import ZERO_ADDRESS, Struct, checksum
from settlement.errors import FieldError
from settlement.orders import Ask, Bid, Cancel, Prices, Quote, lease_no
from settlement.signing import compact, expand

MAX_ENTRIES = 1_000
MAX_METERED = 500
MAX_OPENS = 200
_BATCH_GAS = 700_000  # 600,000 for one item, which a contract wallet's signature may need, and room
_OPEN_GAS = 150_000  # what an item takes where keys sign, calldata included
_HEADER = 22
_USAGE_BYTES = 105
_METERED_BYTES = 113
_UINT40_MAX = 2**40 - 1


@dataclass(frozen=True, slots=True)
class Previous:
    """The lease a bid had before; left out on its first open."""

    provider: str
    ask_hash: bytes
    meter: str


@dataclass(frozen=True, slots=True)
class Match:
    """One ask and one bid with their signatures; a quote's prices if one is given.

    `seat`: which of the bid's nodes, from 0.
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
        """The prices the lease executes at."""
        return self.quote.prices if self.quote is not None else self.ask.floor


@dataclass(frozen=True, slots=True)
class SignedVoucher:
    """A voucher and its witness's 65-byte signature."""

    voucher: Voucher
    signature: bytes


@dataclass(frozen=True, slots=True)
class LeaseRef:
    """What names a lease on chain."""

    buyer: str
    provider: str
    witness: str
    lease_no: bytes


@dataclass(frozen=True, slots=True)
class LeaseOrders:
    """A lease by the orders that it was opened from: what a top-up resends."""

    ask: Ask
    bid_hash: bytes
    buyer: str
    witness: str

    @property
    def ref(self) -> LeaseRef:
        """What names the lease on chain."""
        number = lease_no(self.bid_hash, self.ask.struct_hash(), self.ask.meter)
        return LeaseRef(self.buyer, self.ask.provider, self.witness, number)


class EscrowCalls:
    """Builds calldata for one escrow. Pure: the same input gives the same bytes."""

    def __init__(self, address: str) -> None:
        self.address = checksum(address)
        self._abi: Abi = abi("ComputeEscrow")

    def payload(self, data: bytes, gas: int | None = None) -> dict[str, Any]:
        """An outbox payload that carries the call; without `gas` the node's estimate is taken."""
        call = {"to": self.address, "data": "0x" + data.hex()}
        return call if gas is None else {**call, "gas": gas}

    def deposit(self, amount: int) -> bytes:
        """Moves approved tokens of the sender to its balance."""
        return self._abi.call("deposit", amount)

    def deposit_with_permit(self, amount: int, deadline: int, signature: bytes) -> bytes:
        """Deposits by the sender's EIP-2612 permit (65 bytes)."""
        return self._abi.call("depositWithPermit", amount, deadline, *_vrs(signature))

    def deposit_with_authorization(
        self,
        account: str,
        amount: int,
        valid_after: int,
        valid_before: int,
        nonce: bytes,
        signature: bytes,
    ) -> bytes:
        """Deposits by an account's EIP-3009 authorization (65 bytes); anyone may send it."""
        signed = (account, amount, valid_after, valid_before, nonce)
        return self._abi.call("depositWithAuthorization", *signed, *_vrs(signature))

    def deposit_with_permit2(
        self, account: str, amount: int, nonce: int, deadline: int, signature: bytes
    ) -> bytes:
        """Deposits by a Permit2 transfer that the account signed; anyone may send it."""
        return self._abi.call("depositWithPermit2", account, amount, nonce, deadline, signature)

    def withdraw(self, to: str, amount: int) -> bytes:
        """Moves the sender's free balance out to `to`."""
        return self._abi.call("withdraw", to, amount)

    def collect_fees(self, providers: Sequence[str]) -> bytes:
        """Moves the fees held on these providers' income to the recipient's balance."""
        return self._abi.call("collectFees", list(providers))

    def open(self, match: Match) -> bytes:
        """Opens one lease; reverts where the orders do not fit."""
        return self._abi.call("open", _match(match))

    def open_all(self, matches: Sequence[Match]) -> bytes:
        """Opens all or none, as a bid of several nodes wants it. Raises FieldError above 200."""
        return self._open_many("openAll", matches)

    def open_batch(self, matches: Sequence[Match]) -> bytes:
        """Opens many, skipping those that fail. Raises FieldError above 200.

        Send it with `open_batch_gas`: an estimate is the least gas that doesn't revert, and a batch
        that runs short doesn't revert, it skips.
        """
        return self._open_many("openBatch", matches)

    def _open_many(self, name: str, matches: Sequence[Match]) -> bytes:
        if len(matches) > MAX_OPENS:
            raise FieldError("", f"{len(matches)} matches; a batch takes {MAX_OPENS}")
        return self._abi.call(name, [_match(match) for match in matches])

    def cancel(self, cancel: Cancel, signature: bytes = b"") -> bytes:
        """Makes orders void; anyone may send it with the account's signature, itself without."""
        values = (cancel.account, cancel.salt, cancel.and_older)
        return self._abi.call("cancel", *values, signature)

    def top_up(self, orders: LeaseOrders, bid: Bid, seconds: int, seat: int = 0) -> bytes:
        """Extends an active lease by whole seconds; the sender is its buyer."""
        return self._abi.call("topUp", _lease_orders(orders), as_tuple(bid), seat, seconds)

    def settle(self, vouchers: Sequence[SignedVoucher]) -> bytes:
        """Pays `Usage` vouchers, grouped by provider. Raises FieldError above 1,000."""
        return self._abi.call("settle", pack_entries(vouchers, metered=False))

    def settle_metered(self, vouchers: Sequence[SignedVoucher]) -> bytes:
        """Pays `MeteredUsage` vouchers, grouped by provider. Raises FieldError above 500."""
        return self._abi.call("settleMetered", pack_entries(vouchers, metered=True))

    def settle_all(self, vouchers: Sequence[SignedVoucher], metered: bool) -> bytes:
        """`settle_metered` or `settle`: a batch is of one kind."""
        return (self.settle_metered if metered else self.settle)(vouchers)

    def stop(self, lease: LeaseRef) -> bytes:
        """Ends a lease now; the sender is its buyer, provider or witness."""
        return self._abi.call("stop", *ref_tuple(lease))

    def stop_by_signature(self, lease: LeaseRef, orders_hash: bytes, signature: bytes) -> bytes:
        """Ends a lease now by a `Stop` of its witness or meter; anyone may send it."""
        short = compact(signature)
        values = (*ref_tuple(lease), orders_hash, short[:32], short[32:])
        return self._abi.call("stopBySignature", *values)

    def close(
        self,
        close: Close,
        orders_hash: bytes,
        meter_signature: bytes,
        witness_signature: bytes,
    ) -> bytes:
        """Closes a lease at usage that meter and witness both signed."""
        data = (
            close.buyer,
            close.provider,
            close.lease_no,
            orders_hash,
            close.ms,
            close.egress_mib,
            close.units,
        )
        meter, witness = compact(meter_signature), compact(witness_signature)
        return self._abi.call("close", data, meter[:32], meter[32:], witness[:32], witness[32:])

    def refund(self, lease: LeaseRef) -> bytes:
        """Closes a lease whose settle window is over; anyone may send it."""
        return self._abi.call("refund", *ref_tuple(lease))

    def vouchers(self, calldata: bytes) -> tuple[SignedVoucher, ...]:
        """The vouchers inside settle or settleMetered calldata, in entry order.

        Raises FieldError where it is another call or malformed.
        """
        for name, metered in (("settle", False), ("settleMetered", True)):
            if calldata[:4] == self._abi.call(name, b"")[:4]:
                (entries,) = self._abi.arguments(name, calldata)
                return unpack_entries(entries, metered)
        raise FieldError("/data", "not a settlement")


def open_batch_gas(count: int) -> int:
    """Gas for a batch of `count`, so that what the escrow allows an item is there for the last."""
    return _BATCH_GAS + count * _OPEN_GAS


def pack_entries(vouchers: Sequence[SignedVoucher], metered: bool) -> bytes:
    """Entries as the escrow reads them, in runs by provider, order kept inside a run."""
    most = MAX_METERED if metered else MAX_ENTRIES
    if not 0 < len(vouchers) <= most:
        raise FieldError("", f"{len(vouchers)} vouchers; a batch takes 1 to {most}")
    out: list[bytes] = []
    for provider, run in runs_of(vouchers).items():
        out += (_address(provider), len(run).to_bytes(2, "big"))
        out += (_entry(signed, metered) for signed in run)
    return b"".join(out)


def runs_of(vouchers: Iterable[SignedVoucher]) -> dict[str, list[SignedVoucher]]:
    """Vouchers by provider, in the order in which they are packed."""
    runs: dict[str, list[SignedVoucher]] = {}
    for signed in vouchers:
        runs.setdefault(signed.voucher.provider, []).append(signed)
    return runs


def unpack_entries(entries: bytes, metered: bool) -> tuple[SignedVoucher, ...]:
    """Inverse of `pack_entries`, in entry order. Raises FieldError where runs do not fit."""
    size = _METERED_BYTES if metered else _USAGE_BYTES
    out: list[SignedVoucher] = []
    offset = 0
    while offset < len(entries):
        count = int.from_bytes(entries[offset + 20 : offset + _HEADER], "big")
        provider = checksum(entries[offset : offset + 20].hex())
        offset += _HEADER
        if count == 0 or offset + count * size > len(entries):
            raise FieldError("/entries", f"malformed run before offset {offset}")
        for _ in range(count):
            out.append(_voucher(provider, entries[offset : offset + size], metered))
            offset += size
    return tuple(out)


def skipped_indexes(bitmap: bytes, count: int) -> frozenset[int]:
    """The entries a bitmap marks; bit i is bit i mod 8, lowest first, of byte i / 8."""
    return frozenset(i for i in range(count) if bitmap[i >> 3] >> (i & 7) & 1)


def _entry(signed: SignedVoucher, metered: bool) -> bytes:
    voucher = signed.voucher
    if isinstance(voucher, MeteredUsage) is not metered:
        raise FieldError("", f"a {voucher.primary} cannot be in this batch")
    if voucher.ms > _UINT40_MAX:
        raise FieldError("/ms", "must fit 40 bits")
    figures = voucher.ms.to_bytes(5, "big")
    if isinstance(voucher, MeteredUsage):
        figures += voucher.egress_mib.to_bytes(4, "big") + voucher.units.to_bytes(4, "big")
    return _address(voucher.buyer) + voucher.lease_no + figures + compact(signed.signature)


def _voucher(provider: str, entry: bytes, metered: bool) -> SignedVoucher:
    buyer, number = checksum(entry[:20].hex()), entry[20:36]
    ms = int.from_bytes(entry[36:41], "big")
    signature = expand(entry[-64:])
    if not metered:
        return SignedVoucher(Usage(buyer, provider, number, ms), signature)
    egress_mib = int.from_bytes(entry[41:45], "big")
    units = int.from_bytes(entry[45:49], "big")
    return SignedVoucher(MeteredUsage(buyer, provider, number, ms, egress_mib, units), signature)


def _match(match: Match) -> tuple[Any, ...]:
    quote = match.quote or Quote(bytes(32), Prices(0), 0)
    previous = match.previous or Previous(ZERO_ADDRESS, bytes(32), ZERO_ADDRESS)
    if (match.quote is None) is not (match.quote_signature == b""):
        raise FieldError("/quote", "a quote and its signature come together")
    return (
        as_tuple(match.ask),
        as_tuple(match.bid),
        as_tuple(quote),
        (previous.provider, previous.ask_hash, previous.meter),
        match.seat,
        match.ask_signature,
        match.bid_signature,
        match.quote_signature,
    )


def _lease_orders(orders: LeaseOrders) -> tuple[Any, ...]:
    return as_tuple(orders.ask), orders.bid_hash, orders.buyer, orders.witness


def ref_tuple(lease: LeaseRef) -> tuple[str, str, str, bytes]:
    """What names a lease, in the order in which the escrow takes it."""
    return lease.buyer, lease.provider, lease.witness, lease.lease_no


def _vrs(signature: bytes) -> tuple[int, bytes, bytes]:
    compact(signature)  # refuses what the token would refuse
    return signature[64], signature[:32], signature[32:64]


def as_tuple(value: Any) -> Any:
    """A signed struct as eth-abi takes it: members in signing order, which is the ABI's."""
    if isinstance(value, tuple):
        return [as_tuple(item) for item in value]
    if isinstance(value, Struct):
        return tuple(as_tuple(getattr(value, f.name)) for f in fields(value))  # type: ignore[arg-type]
    return value


def _address(value: str) -> bytes:
    return bytes.fromhex(value[2:])
