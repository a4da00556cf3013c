"""The escrow and its token on one chain: typed reads, simulations and decoded events."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eth_abi.abi import encode

from settlement.chain.abi import abi
from settlement.chain.calls import EscrowCalls, LeaseRef, SettlementEntry, runs_of, skipped_indexes
from settlement.chain.client import At, ChainClient, Log
from settlement.chain.rpc import Breaker, code_failed
from settlement.chain.stops import who_stopped
from settlement.consent import Purse
from settlement.eip712 import Domain, checksum
from settlement.errors import CallReverted, ChainError
from settlement.events import KINDS, ChainEvent, PurseCreated, SettledEntry
from settlement.leases import LeaseStatus, LeaseView, Params, SaltState, Side
from settlement.orders import Numbered
from settlement.ports import LoggedEvent

MAGIC = bytes.fromhex("1626ba7e")  # the selector of isValidSignature, which also means "yes"
SIGNATURE_GAS_MAX = 300_000
"""Gas for call and calldata. Opening a lease leaves more than this for one signature."""
OWN_NODE_SECONDS_MAX = 3.0
_ENTRY_BYTES = {"Settled": 21, "SettledMetered": 29}
_FIGURES = ((16, 21), (21, 25), (25, 29))  # ms, egress MiB, units; an empty slice is zero
_RENAMED = {"egressMibCap": "egress_cap_mib"}


@dataclass(frozen=True, slots=True)
class CountedView:
    """A lease's counted resources: prices in 1e-9 token, usage and caps in MiB and units."""

    egress_gib: int
    unit: int
    egress_mib: int
    units: int
    egress_cap_mib: int
    units_cap: int


@dataclass(frozen=True, slots=True)
class EscrowConfig:
    """The terms that the escrow was deployed with. `settle_window` is in seconds."""

    token: str
    fee_bps: int
    fee_recipient: str
    settle_window: int


def _config(values: Sequence[Any]) -> EscrowConfig:
    token, fee_bps, recipient, window = values
    return EscrowConfig(checksum(token), fee_bps, checksum(recipient), window)


class _Contract:
    """A shipped contract at one address."""

    def __init__(self, client: ChainClient, address: str, name: str) -> None:
        self.client = client
        self.address = checksum(address)
        self._abi = abi(name)

    def read(self, name: str, *arguments: Any, at: At = "latest") -> Any:
        data = self._abi.call(name, *arguments)
        return self._abi.result(name, self.client.call(self.address, data, at=at))


class Escrow(_Contract):
    """`ComputeEscrow` at one address. It only reads; `calls` builds the calldata to send."""

    def __init__(self, client: ChainClient, address: str) -> None:
        super().__init__(client, address, "ComputeEscrow")
        self.calls = EscrowCalls(self.address)

    def domain(self) -> Domain:
        """The EIP-712 domain of orders and vouchers for this escrow."""
        return Domain(self.client.chain_id, self.address)

    def params(self, decimals: int = 18) -> Params:
        return Params(decimals, int(self.read("feeBps")))

    def config(self) -> EscrowConfig:
        """The escrow's own terms."""
        names = ("token", "feeBps", "feeRecipient", "settleWindow")
        return _config(tuple(self.read(name) for name in names))

    def terms(self) -> EscrowConfig:
        """The terms that its extension was deployed with."""
        return _config(self.read("terms"))

    def balance_of(self, account: str, at: At = "latest") -> int:
        """Free balance in atoms."""
        return int(self.read("balanceOf", account, at=at))

    def accepts_signature(self, account: str, digest: bytes, signature: bytes) -> bool:
        """Whether the contract at an account accepts a signature as its own. Source: ERC-1271.

        It must answer exactly MAGIC within SIGNATURE_GAS_MAX. False if there is no contract or its
        code fails. Raises ChainError if the node gives no answer: ask again later.
        """
        data = MAGIC + encode(("bytes32", "bytes"), (digest, signature))
        try:
            answer = self.client.call(account, data, gas=SIGNATURE_GAS_MAX)
        except CallReverted:
            return False
        except ChainError as error:
            if code_failed(error):
                return False
            raise
        return answer == MAGIC.ljust(32, b"\0")

    def who_stopped(self, tx_hash: str, lease: LeaseRef, meter: str) -> Side:
        """The side that a transaction which stopped the lease acted for. Raises ChainError."""
        return who_stopped(self.client, self.domain(), tx_hash, lease, meter)

    def fees_of(self, provider: str, at: At = "latest") -> int:
        """Fees kept back from a provider's income, in atoms."""
        return int(self.read("feesOf", provider, at=at))

    def capacity_used(self, provider: str, node: int, at: At = "latest") -> int:
        """Thousandths of GPUs that open leases hold on a node."""
        return int(self.read("capacityUsed", provider, node, at=at))

    def lease(self, ref: LeaseRef, at: At = "latest") -> LeaseView:
        """One lease. A lease that does not exist has status NONE."""
        values = self.read("lease", ref, at=at)
        return LeaseView(LeaseStatus(values[0]), *values[1:])

    def counted(self, ref: LeaseRef, at: At = "latest") -> CountedView:
        """One lease's counted resources; all zero if it has none."""
        return CountedView(*self.read("counted", ref, at=at))

    def salt_state(
        self, account: str, salt: int, kind: Numbered = Numbered.ORDERS, at: At = "latest"
    ) -> SaltState:
        """Whether this salt of an account's orders or signed calls is used or void."""
        return SaltState(*self.read("saltState", account, kind, salt, at=at))

    def salts_from(self, account: str, kind: Numbered = Numbered.ORDERS, at: At = "latest") -> int:
        """The lowest salt that an account may still use."""
        return int(self.read("saltsFrom", account, kind, at=at))

    def purse(self, account: str, at: At = "latest") -> Purse | None:
        """Who owns and operates a purse; None if the account is none."""
        owner, expiry, operator = self.read("purse", account, at=at)
        return Purse(checksum(owner), expiry, checksum(operator)) if int(owner, 16) else None

    def purses_of(self, account: str, first: int = 0) -> list[PurseCreated]:
        """The purses that name an account as owner or operator, made in block `first` or later."""
        topic = abi("ComputeEscrow").topic("PurseCreated")
        word = bytes(12) + bytes.fromhex(account[2:])
        last = self.client.head().number
        found: dict[str, PurseCreated] = {}
        for topics in ((topic, None, word), (topic, None, None, word)):
            for log in self.client.logs_matching(self.address, topics, first, last):
                if isinstance(made := self.decode(log), PurseCreated):
                    found.setdefault(made.purse, made)
        return list(found.values())

    def refusal(self, data: bytes, sender: str, gas: int) -> CallReverted | None:
        """Why a call of the sender would fail on the pending block; None if it would not."""
        try:
            self.client.call(self.address, data, sender, "pending", gas=gas)
        except CallReverted as error:
            return error
        except ChainError as error:
            if code_failed(error):
                return CallReverted("unknown", (str(error),))
            raise
        return None

    def simulate_settle(
        self, vouchers: Sequence[SettlementEntry], metered: bool, sender: str, at: At
    ) -> tuple[list[SettlementEntry], list[SettlementEntry]]:
        """The vouchers that a settlement sent now would pay, and those it would skip."""
        name = "settleMetered" if metered else "settle"
        data = self.calls.settle(vouchers, metered)
        answer = self.client.call(self.address, data, sender, at)
        packed = [signed for run in runs_of(vouchers).values() for signed in run]
        skipped = skipped_indexes(bytes(self._abi.result(name, answer)), len(packed))
        paid = [signed for i, signed in enumerate(packed) if i not in skipped]
        return paid, [packed[i] for i in sorted(skipped)]

    def simulate_free(self, data: bytes, sender: str, at: At) -> bool:
        """Whether a call of `free` sent now would stop any of its leases."""
        (leases,) = self._abi.arguments("free", data)
        answer = self.client.call(self.address, data, sender, at)
        skipped = skipped_indexes(bytes(self._abi.result("free", answer)), len(leases))
        return len(skipped) < len(leases)

    def events(self, first: int, last: int) -> tuple[LoggedEvent, ...]:
        """The events of the blocks first to last, both included, in chain order."""
        return tuple(
            LoggedEvent(log.block_number, log.block_hash, log.tx_hash, log.log_index, event)
            for log in self.client.logs(self.address, first, last)
            if (event := self.decode(log)) is not None
        )

    def decode(self, log: Log) -> ChainEvent | None:
        """A log as an event; None if it is another contract's or not an event we know."""
        if log.address.lower() != self.address.lower():
            return None
        name, values = self._abi.event(log.topics, log.data) or ("", {})
        if name not in KINDS:
            return None  # the escrow's other events move no money
        if name in _ENTRY_BYTES:
            values["entries"] = _settled(values["entries"], _ENTRY_BYTES[name])
        return KINDS[name](**{_snake(key): value for key, value in values.items()})


class OwnNode:
    """A party's own look at leases, on a node that it chose itself. Raises ChainError."""

    def __init__(self, rpc_url: str, domain: Domain, confirmations: int) -> None:
        breaker = Breaker(time.monotonic, failures_max=1)  # others wait behind whoever asks
        client = ChainClient(rpc_url, domain.chain_id, OWN_NODE_SECONDS_MAX, breaker=breaker)
        self._escrow = Escrow(client, domain.verifying_contract)
        self._confirmations = confirmations
        self._is_checked = False

    def lease(self, buyer: str, provider: str, witness: str, lease_no: bytes) -> LeaseView:
        """One lease, so many blocks ago that no reorg changes it. The node must serve the chain."""
        if not self._is_checked:
            self._escrow.client.check()
            self._is_checked = True
        ref = LeaseRef(buyer, provider, witness, lease_no)
        if not self._confirmations:
            return self._escrow.lease(ref)
        head = self._escrow.client.head().number
        return self._escrow.lease(ref, at=max(0, head - self._confirmations))


class Token(_Contract):
    """`ComputeToken`, or any ERC-20 with permit, at one address."""

    def __init__(self, client: ChainClient, address: str) -> None:
        super().__init__(client, address, "ComputeToken")

    def decimals(self) -> int:
        return int(self.read("decimals"))

    def symbol(self) -> str:
        return str(self.read("symbol"))

    def balance_of(self, account: str, at: At = "latest") -> int:
        """Atoms that an account holds."""
        return int(self.read("balanceOf", account, at=at))

    def allowance(self, owner: str, spender: str) -> int:
        """Atoms that `spender` may move for `owner`."""
        return int(self.read("allowance", owner, spender))

    def permit_nonce(self, owner: str) -> int:
        return int(self.read("nonces", owner))

    def domain(self) -> Domain:
        """The EIP-712 domain of permits. Source: EIP-2612; version "1" as in OpenZeppelin."""
        return Domain(self.client.chain_id, self.address, name=str(self.read("name")))

    def approve(self, spender: str, amount: int) -> bytes:
        """Calldata that lets `spender` move `amount` of the sender's atoms."""
        return self._abi.call("approve", spender, amount)

    def transfer(self, to: str, amount: int) -> bytes:
        """Calldata that moves `amount` of the sender's atoms to `to`."""
        return self._abi.call("transfer", to, amount)


def _snake(name: str) -> str:
    """An ABI name as our events spell it: snake case, with the unit last."""
    return _RENAMED.get(name) or re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


def _settled(packed: bytes, size: int) -> tuple[SettledEntry, ...]:
    """Entries of lease number 16 | ms 5 (| egressMib 4 | units 4) bytes."""
    entries = (packed[i : i + size] for i in range(0, len(packed), size))
    return tuple(
        SettledEntry(entry[:16], *(int.from_bytes(entry[a:b], "big") for a, b in _FIGURES))
        for entry in entries
    )
