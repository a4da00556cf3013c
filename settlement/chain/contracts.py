"""The two contracts on one chain: typed reads, simulations, and events as values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from settlement.chain.abi import abi
from settlement.chain.calls import (
    EscrowCalls,
    LeaseRef,
    SignedVoucher,
    as_tuple,
    ref_tuple,
    runs_of,
    skipped_indexes,
)
from settlement.chain.client import BlockTag, ChainClient, Log
from settlement.chain.wallets import accepts
from settlement.eip712 import Domain, checksum
from settlement.events import KINDS, ChainEvent, SettledEntry
from settlement.leases import LeaseStatus, OrderState, Params
from settlement.orders import Ask, Bid, Quote
from settlement.ports import LoggedEvent

_SETTLED_BYTES = 21
_ENTRY_BYTES = {"Settled": _SETTLED_BYTES, "SettledMetered": 29}
_RENAMED = {"egressMibCap": "egress_cap_mib"}


@dataclass(frozen=True, slots=True)
class LeaseView:
    """A lease as the contract unpacks it. Seconds are chain time, amounts atoms, fee included."""

    status: LeaseStatus
    metered: bool
    rate: int
    used_ms: int
    start: int
    end: int
    funded: int
    gpu_milli: int
    node: int
    released: int
    locked: int


@dataclass(frozen=True, slots=True)
class CountedView:
    """A lease's counted resources: prices in 1e-9 token, figures and caps in MiB and units."""

    egress_gib: int
    unit: int
    egress_mib: int
    units: int
    egress_cap_mib: int
    units_cap: int


@dataclass(frozen=True, slots=True)
class EscrowConfig:
    """What the escrow fixed when it was deployed. `settle_window` in seconds."""

    token: str
    fee_bps: int
    fee_recipient: str
    settle_window: int


class Escrow:
    """`ComputeEscrow` at one address. `calls` builds what is sent; everything here only reads."""

    def __init__(self, client: ChainClient, address: str) -> None:
        self.client = client
        self.address = checksum(address)
        self.calls = EscrowCalls(self.address)
        self._abi = abi("ComputeEscrow")

    def domain(self) -> Domain:
        """What orders and vouchers for this escrow are signed under."""
        return Domain(self.client.chain_id, self.address)

    def params(self, decimals: int = 18) -> Params:
        """What a fold of this escrow's events needs."""
        return Params(decimals, int(self._read("feeBps")))

    def config(self) -> EscrowConfig:
        """The immutables."""
        return EscrowConfig(
            token=checksum(self._read("token")),
            fee_bps=int(self._read("feeBps")),
            fee_recipient=checksum(self._read("feeRecipient")),
            settle_window=int(self._read("settleWindow")),
        )

    def balance_of(self, account: str, at: int | BlockTag = "latest") -> int:
        """Free balance in atoms."""
        return int(self._read("balanceOf", account, at=at))

    def accepts_signature(self, account: str, digest: bytes, signature: bytes) -> bool:
        """Whether the contract at an account says the signature is its own (ERC-1271)."""
        return accepts(self.client, account, digest, signature)

    def fees_of(self, provider: str, at: int | BlockTag = "latest") -> int:
        """Fees held on a provider's income, in atoms."""
        return int(self._read("feesOf", provider, at=at))

    def capacity_used(self, provider: str, node: int, at: int | BlockTag = "latest") -> int:
        """Thousandths of GPUs that open leases hold on a node."""
        return int(self._read("capacityUsed", provider, node, at=at))

    def lease(self, ref: LeaseRef, at: int | BlockTag = "latest") -> LeaseView:
        """One lease; its status is NONE where there is none."""
        values = self._read("lease", *ref_tuple(ref), at=at)
        return LeaseView(LeaseStatus(values[0]), *values[1:])

    def counted(self, ref: LeaseRef, at: int | BlockTag = "latest") -> CountedView:
        """One lease's counted resources; all zero where it has none."""
        return CountedView(*self._read("counted", *ref_tuple(ref), at=at))

    def order_state(self, account: str, salt: int, at: int | BlockTag = "latest") -> OrderState:
        """Whether an account's bid of this salt has opened, and whether its order is void."""
        return OrderState(*self._read("orderState", account, salt, at=at))

    def orders_from(self, account: str, at: int | BlockTag = "latest") -> int:
        """The lowest salt that an account's orders may have."""
        return int(self._read("ordersFrom", account, at=at))

    def bid_record(
        self, bid_hash: bytes, seat: int = 0, at: int | BlockTag = "latest"
    ) -> tuple[bytes, int]:
        """Latest lease of a seat that has a record, and what came before it may cost."""
        latest, spent = self._read("bidRecord", bid_hash, seat, at=at)
        return bytes(latest), int(spent)

    def extension(self) -> str:
        """The contract whose code answers what the escrow's own does not."""
        return checksum(self._read("extension"))

    def cost(self, rate: int, ms: int) -> int:
        """The contract's own `cost`, for comparison with `units.cost`."""
        return int(self._read("cost", rate, ms))

    def hash_of(self, order: Ask | Bid | Quote) -> bytes:
        """The contract's own struct hash, for comparison with `order.struct_hash()`."""
        return bytes(self._read(f"hash{order.primary}", as_tuple(order)))

    def lease_no_of(self, bid_hash: bytes, ask_hash: bytes, meter: str) -> bytes:
        """The contract's own lease number, for comparison with `orders.lease_no`."""
        return bytes(self._read("leaseNoOf", bid_hash, ask_hash, meter))

    def domain_separator(self) -> bytes:
        """The contract's own, for comparison with `domain().separator()`."""
        return bytes(self._read("domainSeparator"))

    def simulate_settle(
        self, vouchers: Sequence[SignedVoucher], metered: bool, sender: str, at: BlockTag
    ) -> tuple[list[SignedVoucher], list[SignedVoucher]]:
        """What a settlement sent now would pay, and what it would skip."""
        name = "settleMetered" if metered else "settle"
        data = self.calls.settle_all(vouchers, metered)
        answer = self.client.call(self.address, data, sender, at)
        packed = [signed for run in runs_of(vouchers).values() for signed in run]
        skipped = skipped_indexes(bytes(self._abi.result(name, answer)), len(packed))
        paid = [signed for i, signed in enumerate(packed) if i not in skipped]
        return paid, [packed[i] for i in sorted(skipped)]

    def events(self, first: int, last: int) -> tuple[LoggedEvent, ...]:
        """What happened in the blocks first to last, both included, in chain order."""
        out = []
        for log in self.client.logs(self.address, first, last):
            event = self.decode(log)
            if event is not None:
                out.append(
                    LoggedEvent(log.block_number, log.block_hash, log.tx_hash, log.log_index, event)
                )
        return tuple(out)

    def decode(self, log: Log) -> ChainEvent | None:
        """A log of this contract as a value; None for logs of others."""
        if log.address.lower() != self.address.lower():
            return None
        named = self._abi.event(log.topics, log.data)
        return None if named is None else _event(*named)

    def _read(self, name: str, *arguments: Any, at: int | BlockTag = "latest") -> Any:
        data = self._abi.call(name, *arguments)
        return self._abi.result(name, self.client.call(self.address, data, at=at))


class Token:
    """`ComputeToken`, or any ERC-20 with permit, at one address."""

    def __init__(self, client: ChainClient, address: str) -> None:
        self.client = client
        self.address = checksum(address)
        self._abi = abi("ComputeToken")

    def decimals(self) -> int:
        """Decimal places of one token."""
        return int(self._read("decimals"))

    def symbol(self) -> str:
        """Ticker."""
        return str(self._read("symbol"))

    def balance_of(self, account: str, at: int | BlockTag = "latest") -> int:
        """Atoms an account holds."""
        return int(self._read("balanceOf", account, at=at))

    def allowance(self, owner: str, spender: str) -> int:
        """Atoms `spender` may move for `owner`."""
        return int(self._read("allowance", owner, spender))

    def total_supply(self) -> int:
        """Atoms in existence."""
        return int(self._read("totalSupply"))

    def permit_nonce(self, owner: str) -> int:
        """The nonce an owner's next permit must carry."""
        return int(self._read("nonces", owner))

    def domain(self) -> Domain:
        """What permits are signed under. Source: EIP-2612; version "1" as in OpenZeppelin's."""
        return Domain(self.client.chain_id, self.address, name=str(self._read("name")))

    def domain_separator(self) -> bytes:
        """The token's own, for comparison with `domain().separator()`."""
        return bytes(self._read("DOMAIN_SEPARATOR"))

    def approve(self, spender: str, amount: int) -> bytes:
        """Calldata that lets `spender` move `amount` atoms of the sender's."""
        return self._abi.call("approve", spender, amount)

    def transfer(self, to: str, amount: int) -> bytes:
        """Calldata that moves `amount` atoms of the sender's to `to`."""
        return self._abi.call("transfer", to, amount)

    def _read(self, name: str, *arguments: Any, at: int | BlockTag = "latest") -> Any:
        data = self._abi.call(name, *arguments)
        return self._abi.result(name, self.client.call(self.address, data, at=at))


def _event(name: str, values: dict[str, Any]) -> ChainEvent | None:
    if name not in KINDS:
        return None  # EIP712DomainChanged and the like move no money
    if name in _ENTRY_BYTES:
        values = {**values, "entries": _settled(values["entries"], _ENTRY_BYTES[name])}
    return KINDS[name](**{_snake(key): value for key, value in values.items()})


def _snake(name: str) -> str:
    """A name of the ABI as our events write it: units end a name."""
    return _RENAMED.get(name) or re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


def _settled(packed: bytes, size: int) -> tuple[SettledEntry, ...]:
    return tuple(
        SettledEntry(
            packed[i : i + 16],
            int.from_bytes(packed[i + 16 : i + 21], "big"),
            int.from_bytes(packed[i + 21 : i + 25], "big") if size > _SETTLED_BYTES else 0,
            int.from_bytes(packed[i + 25 : i + 29], "big") if size > _SETTLED_BYTES else 0,
        )
        for i in range(0, len(packed), size)
    )
