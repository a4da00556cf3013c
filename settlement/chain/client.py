"""One node: reads, simulations, raw sends, and transactions for people at a prompt.

Every failure is a ChainError: ChainUnavailable if no answer came, SendRejected if the node refused
a transaction, CallReverted if a contract refused a call.
Source: Ethereum JSON-RPC (execution-apis), EIP-1559.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from settlement.chain.rpc import Breaker, NodeProvider, Rpc, Transport
from settlement.eip712 import checksum
from settlement.errors import (
    CallReverted,
    ChainError,
    ChainUnavailable,
    FeeAboveCap,
    OutcomeUnknown,
    SendReason,
    SendRejected,
    WrongChain,
)
from settlement.fees import GWEI, FeeAdvice, FeePolicy, TransactionFees
from settlement.ports import BlockRef
from settlement.signing import TransactionSigner

At = int | Literal["latest", "pending"]
"""The block at which something is read."""
GAS_MARGIN_PERCENT = 25  # how much more a time-dependent path may cost than its estimate
GAS_CAP = 2**24  # the most gas of one transaction. Source: EIP-7825
RANGE_BLOCKS = 2_000  # common nodes answer this many in one eth_getLogs
_REASONS = (
    ("nonce too low", SendReason.NONCE_TOO_LOW),
    ("underpriced", SendReason.UNDERPRICED),
    ("fee cap", SendReason.UNDERPRICED),
    ("max fee per gas less than block base fee", SendReason.UNDERPRICED),
    ("insufficient funds", SendReason.INSUFFICIENT_FUNDS),
    ("pool is full", SendReason.BUSY),
    ("nonce too high", SendReason.BUSY),
)
_RESEND_SECONDS = 0.25
_KNOWN = ("already known", "already imported", "known transaction")


@dataclass(frozen=True, slots=True)
class Log:
    """One log and its place on chain."""

    address: str
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    block_hash: str
    tx_hash: str
    log_index: int


@dataclass(frozen=True, slots=True)
class TransactionReceipt:
    """Where a transaction was mined, and its outcome.

    `contract` is the address it created, `to` the address it called.
    """

    tx_hash: str
    block_number: int
    block_hash: str
    succeeded: bool
    gas_used: int
    contract: str | None
    logs: tuple[Log, ...]
    to: str | None = None


class ChainClient:
    """A node, reached by URL or through `transport`. Many threads may share one instance."""

    def __init__(
        self,
        rpc_url: str,
        chain_id: int,
        timeout_seconds: float = 10.0,
        transport: Transport | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        self.rpc_url = rpc_url
        self.chain_id = chain_id
        transport = transport or NodeProvider(rpc_url, timeout_seconds).make_request
        self._ask = Rpc(rpc_url, transport, breaker).ask

    def check(self) -> None:
        """Pass if the node serves the expected chain. Raises WrongChain."""
        served = self._ask(_int, "eth_chainId")
        if served != self.chain_id:
            raise WrongChain(
                f"expected chain {self.chain_id}, but the node serves chain {served}: "
                "set the URL of a node of the right chain"
            )

    def block(self, at: At = "latest") -> BlockRef | None:
        """A block by number or tag; None if the node does not have it."""
        return self._ask(_block, "eth_getBlockByNumber", _at(at), False)

    def head(self) -> BlockRef:
        if (found := self.block()) is None:
            raise ChainUnavailable("the node has no latest block")
        return found

    def timestamp(self) -> int:
        """Chain time: the newest block's timestamp in seconds."""
        return self.head().timestamp

    def balance(self, address: str) -> int:
        """Native balance in wei."""
        return self._ask(_int, "eth_getBalance", address, "latest")

    def nonce(self, address: str, at: At = "latest") -> int:
        """How many transactions of an account are mined, or mined and pooled (at "pending")."""
        return self._ask(_int, "eth_getTransactionCount", address, _at(at))

    def code(self, address: str) -> bytes:
        """The code at an address; empty if there is none."""
        return self._ask(_bytes, "eth_getCode", address, "latest")

    def call(
        self,
        to: str,
        data: bytes,
        sender: str | None = None,
        at: At = "latest",
        value: int = 0,
        gas: int | None = None,
    ) -> bytes:
        """Run a call without a transaction. Raises CallReverted with the decoded error.

        `gas` limits what the call may take.
        """
        fields = _call_fields(to, data, sender, value, gas)
        return self._ask(_bytes, "eth_call", fields, _at(at))

    def estimate_gas(
        self, to: str | None, data: bytes, sender: str, value: int = 0, gas: int | None = None
    ) -> int:
        """Gas that the call would take in the pending block.

        Raises CallReverted, also if the call needs more than `gas`. Some nodes report that as
        another ChainError, which `rpc.code_failed` recognizes.
        """
        fields = _call_fields(to, data, sender, value, gas)
        return self._ask(_int, "eth_estimateGas", fields, "pending")

    def fees(self) -> FeeAdvice:
        """Base fee of the newest block, and the priority fee that the node advises."""
        base = self._ask(_base_fee, "eth_getBlockByNumber", "latest", False)
        try:
            return FeeAdvice(base, self._ask(_int, "eth_maxPriorityFeePerGas"))
        except ChainUnavailable:
            raise
        except ChainError:  # not every node advises one
            return FeeAdvice(base, GWEI)

    def send_raw(self, raw: bytes) -> None:
        """Send signed bytes to the node's pool; bytes that it already holds count as sent.

        Raises SendRejected if the node refuses them, ChainUnavailable if they may have arrived.
        """
        try:
            self._ask(_hex, "eth_sendRawTransaction", "0x" + raw.hex())
        except ChainUnavailable:
            raise
        except ChainError as error:
            text = str(error).lower()
            if not any(known in text for known in _KNOWN):
                reason = next((r for words, r in _REASONS if words in text), SendReason.OTHER)
                raise SendRejected(reason, str(error)) from error

    def knows(self, tx_hash: str) -> bool:
        """Whether the node has the transaction in a block or in its pool."""
        found = self._ask(_maybe_hash, "eth_getTransactionByHash", tx_hash)
        return found == tx_hash.lower()

    def receipt(self, tx_hash: str) -> TransactionReceipt | None:
        """A transaction's receipt; None while it is not mined."""
        return self._ask(_receipt, "eth_getTransactionReceipt", tx_hash)

    def logs(self, address: str, first: int, last: int) -> tuple[Log, ...]:
        """A contract's logs in the blocks first to last, both included, in chain order."""
        wanted = {"address": address, "fromBlock": hex(first), "toBlock": hex(last)}
        found = self._ask(_logs, "eth_getLogs", wanted)
        return tuple(sorted(found, key=lambda log: (log.block_number, log.log_index)))

    def logs_matching(
        self, address: str, topics: Sequence[bytes | None], first: int, last: int
    ) -> tuple[Log, ...]:
        """A contract's logs with these topics (None: any). A node that does not search so many
        blocks at once is asked for RANGE_BLOCKS at a time.
        """
        words = [None if topic is None else "0x" + topic.hex() for topic in topics]
        wanted = {"address": address, "topics": words}
        step = max(1, last - first + 1)
        found: list[Log] = []
        while first <= last:
            end = min(last, first + step - 1)
            bounds = {"fromBlock": hex(first), "toBlock": hex(end)}
            try:
                found += self._ask(_logs, "eth_getLogs", wanted | bounds)
            except ChainError:
                if step <= RANGE_BLOCKS:
                    raise
                step = RANGE_BLOCKS
                continue
            first = end + 1
        return tuple(found)

    def rpc(self, method: str, *parameters: Any) -> Any:
        """Call any JSON-RPC method, e.g. a development chain's `anvil_…` and `evm_…`."""
        return self._ask(lambda result: result, method, *parameters)

    def transact(
        self,
        signer: TransactionSigner,
        to: str | None,
        data: bytes = b"",
        value: int = 0,
        timeout_seconds: float = 60.0,
        gas: int | None = None,
    ) -> TransactionReceipt:
        """Simulate, sign and send a transaction, and wait until it is mined.

        For people at a prompt and for deployments, not for the relayer: a crash forgets what was
        sent, because nothing is stored. `to` None creates a contract. With `gas`, nothing is
        simulated. Raises CallReverted (before signing if the simulation reverts), FeeAboveCap
        (nothing was signed) and OutcomeUnknown (signed, perhaps mined).
        """
        limit = gas or with_margin(self.estimate_gas(to, data, signer.address, value))
        advice = self.fees()
        policy = FeePolicy()
        offer = policy.offer(advice)
        if offer is None:
            base, cap = advice.base / GWEI, policy.cap / GWEI
            raise FeeAboveCap(
                f"the node asks {base:g} gwei per gas, above the cap of {cap:g}; nothing was sent: "
                "try again when gas is cheaper"
            )
        fields = transaction_fields(self.chain_id, to, data, value, limit, offer)
        fields["nonce"] = self.nonce(signer.address, "pending")
        raw, tx_hash = signer.sign_transaction(fields)
        until = time.monotonic() + timeout_seconds
        try:
            self._send_until(raw, tx_hash, until)
        except SendRejected as error:
            if error.reason is SendReason.INSUFFICIENT_FUNDS:
                detail = f"{signer.address} holds too little ETH for the gas: send it some"
                raise SendRejected(error.reason, detail) from error
            raise
        receipt = self.wait(tx_hash, max(0.0, until - time.monotonic()))
        if not receipt.succeeded:
            raise self.why_reverted(receipt, to, data, signer.address, value)
        return receipt

    def _send_until(self, raw: bytes, tx_hash: str, until: float) -> None:
        """Send the same bytes until the node answers; they have at most one effect."""
        lost = False
        while True:
            try:
                return self.send_raw(raw)
            except ChainUnavailable as error:
                lost = True
                if time.monotonic() >= until:
                    raise OutcomeUnknown(tx_hash, f"the node did not answer: {error}") from error
            except SendRejected:
                if lost:  # perhaps an earlier send arrived: the receipt will tell
                    return None
                raise
            time.sleep(_RESEND_SECONDS)

    def wait(self, tx_hash: str, timeout_seconds: float = 60.0) -> TransactionReceipt:
        """The receipt once the transaction is mined. Raises OutcomeUnknown after the time-out."""
        until = time.monotonic() + timeout_seconds
        while True:
            with suppress(ChainUnavailable):  # the node may answer again before the time-out
                receipt = self.receipt(tx_hash)
                if receipt is not None:
                    return receipt
            if time.monotonic() >= until:
                raise OutcomeUnknown(tx_hash, f"not mined within {timeout_seconds:.3g} s")
            time.sleep(0.05)

    def why_reverted(
        self, receipt: TransactionReceipt, to: str | None, data: bytes, sender: str, value: int = 0
    ) -> CallReverted:
        """The error behind a failed receipt, found by repeating the call at its block."""
        if to is not None:
            try:
                self.call(to, data, sender, receipt.block_number, value)
            except CallReverted as error:
                return error
        return CallReverted("unknown", (f"transaction {receipt.tx_hash} failed",))


def with_margin(gas: int) -> int:
    """A gas estimate plus a margin for what may change before it runs, at most GAS_CAP.

    An estimate above the cap stays as it is: chains without a cap accept it, others refuse it.
    """
    return max(gas, min(gas + gas * GAS_MARGIN_PERCENT // 100, GAS_CAP))


def transaction_fields(
    chain_id: int, to: str | None, data: bytes, value: int, gas: int, offer: TransactionFees
) -> dict[str, Any]:
    """The fields of an EIP-1559 transaction, without its nonce."""
    fees = {
        "maxFeePerGas": max(offer.maximum, offer.priority),
        "maxPriorityFeePerGas": offer.priority,
    }
    fields = {"type": 2, "chainId": chain_id, "data": data, "value": value, "gas": gas, **fees}
    return fields if to is None else {**fields, "to": checksum(to)}


def _call_fields(
    to: str | None, data: bytes, sender: str | None, value: int, gas: int | None
) -> dict[str, str]:
    limit = None if gas is None else hex(gas)
    fields = {
        "to": to,
        "data": "0x" + data.hex(),
        "from": sender,
        "value": hex(value),
        "gas": limit,
    }
    return {name: field for name, field in fields.items() if field is not None}


def _at(at: At) -> str:
    return hex(at) if isinstance(at, int) else at


# What a node answers, as values. Whatever these raise becomes ChainUnavailable.


def _int(value: Any) -> int:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ValueError(f"{value!r} is not a hexadecimal number")
    return int(value, 16)


def _bytes(value: Any) -> bytes:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ValueError(f"{value!r} is not hexadecimal")
    return bytes.fromhex(value[2:])


def _hex(value: Any) -> str:
    return "0x" + _bytes(value).hex()


def _maybe_hash(transaction: Any) -> str | None:
    return None if transaction is None else _hex(transaction["hash"])


def _maybe_address(value: str | None) -> str | None:
    return checksum(value) if value else None


def _base_fee(block: Any) -> int:
    return _int(block["baseFeePerGas"])


def _block(block: Any) -> BlockRef | None:
    if block is None:
        return None
    number, timestamp = _int(block["number"]), _int(block["timestamp"])
    quiet = _int(block.get("logsBloom", "0x1")) == 0
    return BlockRef(number, _hex(block["hash"]), _hex(block["parentHash"]), timestamp, quiet)


def _receipt(receipt: Any) -> TransactionReceipt | None:
    if receipt is None:
        return None
    return TransactionReceipt(
        tx_hash=_hex(receipt["transactionHash"]),
        block_number=_int(receipt["blockNumber"]),
        block_hash=_hex(receipt["blockHash"]),
        succeeded=_int(receipt["status"]) == 1,
        gas_used=_int(receipt["gasUsed"]),
        contract=_maybe_address(receipt.get("contractAddress")),
        logs=_logs(receipt["logs"]),
        to=_maybe_address(receipt.get("to")),
    )


def _logs(entries: Any) -> tuple[Log, ...]:
    return tuple(
        Log(
            address=checksum(entry["address"]),
            topics=tuple(_bytes(topic) for topic in entry["topics"]),
            data=_bytes(entry["data"]),
            block_number=_int(entry["blockNumber"]),
            block_hash=_hex(entry["blockHash"]),
            tx_hash=_hex(entry["transactionHash"]),
            log_index=_int(entry["logIndex"]),
        )
        for entry in entries
    )
