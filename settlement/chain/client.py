"""One node over JSON-RPC: reads, simulations and raw sends. No call is retried here.

Every failure is a ChainError: ChainUnavailable if no answer came, SendRejected if the node refused
a transaction, CallReverted if a contract refused a call.
Source: Ethereum JSON-RPC (execution-apis), EIP-1559.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from hexbytes import HexBytes
from web3 import Web3
from web3.exceptions import TransactionNotFound, Web3RPCError
from web3.providers.base import BaseProvider
from web3.types import RPCEndpoint, TxParams

from settlement.chain.breaker import Breaker
from settlement.chain.node import NodeProvider
from settlement.chain.translate import as_chain_errors, shipped_errors
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

BlockTag = Literal["latest", "pending"]
GAS_MARGIN_PERCENT = 25  # how much more a time-dependent path may cost than its estimate
GAS_CAP = 2**24  # the most gas of one transaction. Source: EIP-7825
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
    gas_price: int
    contract: str | None
    logs: tuple[Log, ...]
    to: str | None = None


class ChainClient:
    """A node, reached by URL or through `provider`. Many threads may share one instance."""

    def __init__(
        self,
        rpc_url: str,
        chain_id: int,
        timeout_seconds: float = 10.0,
        provider: BaseProvider | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        self.rpc_url = rpc_url
        self.chain_id = chain_id
        self._breaker = breaker or Breaker(time.monotonic)
        self._web3 = Web3(
            provider or NodeProvider(rpc_url, timeout_seconds),
            middleware=(),  # web3's own look up names and ask for the chain id before each call
        )
        self._errors = shipped_errors()

    def check(self) -> None:
        """Pass if the node serves the expected chain. Raises WrongChain."""
        with self._translate_errors():
            served = _int(self._web3.eth.chain_id)
        if served != self.chain_id:
            raise WrongChain(
                f"expected chain {self.chain_id}, but the node serves chain {served}: "
                "set the URL of a node of the right chain"
            )

    def block(self, at: int | BlockTag = "latest") -> BlockRef | None:
        """A block by number or tag; None if the node does not have it."""
        # Frequent, so without web3's formatters, which take longer than the answer.
        found = self.rpc("eth_getBlockByNumber", hex(at) if isinstance(at, int) else at, False)
        if found is None:
            return None
        with self._translate_errors():  # a missing or malformed member is ChainUnavailable
            number, timestamp = int(found["number"], 16), int(found["timestamp"], 16)
            quiet = int(found.get("logsBloom", "0x1"), 16) == 0
            return BlockRef(number, str(found["hash"]), str(found["parentHash"]), timestamp, quiet)

    def head(self) -> BlockRef:
        """The newest block."""
        found = self.block("latest")
        if found is None:
            raise ChainUnavailable("the node has no latest block")
        return found

    def timestamp(self) -> int:
        """Chain time: the newest block's timestamp in seconds."""
        return self.head().timestamp

    def balance(self, address: str) -> int:
        """Native balance in wei."""
        account = Web3.to_checksum_address(address)
        with self._translate_errors():
            return _int(self._web3.eth.get_balance(account))

    def nonce(self, address: str, at: int | BlockTag = "latest") -> int:
        """How many transactions of an account are mined, or mined and pooled (at "pending")."""
        account = Web3.to_checksum_address(address)
        with self._translate_errors():
            return _int(self._web3.eth.get_transaction_count(account, at))

    def code(self, address: str) -> bytes:
        """The code at an address; empty if there is none."""
        account = Web3.to_checksum_address(address)
        with self._translate_errors():
            return bytes(self._web3.eth.get_code(account))

    def call(
        self,
        to: str,
        data: bytes,
        sender: str | None = None,
        at: int | BlockTag = "latest",
        value: int = 0,
        gas: int | None = None,
    ) -> bytes:
        """Run a call without a transaction. Raises CallReverted with the decoded error.

        `gas` limits what the call may take.
        """
        fields = _call_fields(to, data, sender, value, gas)
        with self._translate_errors():
            return bytes(self._web3.eth.call(fields, at))

    def estimate_gas(
        self,
        to: str | None,
        data: bytes,
        sender: str,
        value: int = 0,
        at: BlockTag = "pending",
        gas: int | None = None,
    ) -> int:
        """Gas that the call would take now.

        Raises CallReverted, also if the call needs more than `gas`. Some nodes report that as
        another ChainError, which `translate.code_failed` recognizes.
        """
        fields = _call_fields(to, data, sender, value, gas)
        with self._translate_errors():
            return _int(self._web3.eth.estimate_gas(fields, at))

    def fees(self) -> FeeAdvice:
        """Base fee of the newest block, and the priority fee that the node advises."""
        with self._translate_errors():
            block = self._web3.eth.get_block("latest")
            return FeeAdvice(_int(block["baseFeePerGas"]), _int(self._web3.eth.max_priority_fee))

    def send_raw(self, raw: bytes) -> None:
        """Send signed bytes to the node's pool; bytes that it already holds count as sent.

        Raises SendRejected if the node refuses them, ChainUnavailable if they may have arrived.
        """
        try:
            with self._translate_errors():
                self._web3.eth.send_raw_transaction(raw)
        except CallReverted as error:  # some nodes run a transaction before they pool it
            raise SendRejected(SendReason.OTHER, str(error)) from error
        except (ChainUnavailable, WrongChain):
            raise
        except ChainError as error:
            text = str(error).lower()
            if any(known in text for known in _KNOWN):
                return
            reason = next((r for words, r in _REASONS if words in text), SendReason.OTHER)
            raise SendRejected(reason, str(error)) from error

    def knows(self, tx_hash: str) -> bool:
        """Whether the node has the transaction in a block or in its pool."""
        with self._translate_errors():
            try:
                found = self._web3.eth.get_transaction(HexBytes(tx_hash))
            except TransactionNotFound:
                return False
            return _hex(found["hash"]) == tx_hash.lower()

    def receipt(self, tx_hash: str) -> TransactionReceipt | None:
        """A transaction's receipt; None while it is not mined."""
        with self._translate_errors():
            try:
                found = self._web3.eth.get_transaction_receipt(HexBytes(tx_hash))
            except TransactionNotFound:
                return None
            return TransactionReceipt(
                tx_hash=_hex(found["transactionHash"]),
                block_number=_int(found["blockNumber"]),
                block_hash=_hex(found["blockHash"]),
                succeeded=_int(found["status"]) == 1,
                gas_used=_int(found["gasUsed"]),
                gas_price=_int(found.get("effectiveGasPrice", 0)),
                contract=found.get("contractAddress"),
                logs=tuple(_log(entry) for entry in found["logs"]),
                to=found.get("to"),
            )

    def logs(self, address: str, first: int, last: int) -> tuple[Log, ...]:
        """A contract's logs in the blocks first to last, both included, in chain order."""
        account = Web3.to_checksum_address(address)
        with self._translate_errors():
            found = self._web3.eth.get_logs(
                {"address": account, "fromBlock": first, "toBlock": last}
            )
            logs = [_log(entry) for entry in found]
        return tuple(sorted(logs, key=lambda log: (log.block_number, log.log_index)))

    def rpc(self, method: str, *parameters: Any) -> Any:
        """Call any JSON-RPC method, e.g. a development chain's `anvil_…` and `evm_…`."""
        with self._translate_errors():
            answer = self._web3.provider.make_request(RPCEndpoint(method), list(parameters))
            if "error" in answer:
                raise Web3RPCError(f"{method}: {answer['error']}", rpc_response=answer)
            return answer.get("result")

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
        advice, policy = self.fees(), FeePolicy()
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
        self._send_until(raw, tx_hash, until)
        receipt = self.wait(tx_hash, max(0.0, until - time.monotonic()))
        if not receipt.succeeded:
            raise self.why_reverted(receipt, to, data, signer.address, value)
        return receipt

    def _send_until(self, raw: bytes, tx_hash: str, until: float) -> None:
        """Send the same bytes until the node answers; they have one effect at most."""
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

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn whatever the libraries raise into a ChainError, and inform the breaker."""
        self._breaker.admit()
        try:
            with as_chain_errors(self._errors, self.rpc_url):
                yield
        except ChainUnavailable:
            self._breaker.unanswered()
            raise
        except ChainError:
            self._breaker.answered()
            raise
        self._breaker.answered()


def with_margin(gas: int) -> int:
    """A gas estimate plus a margin for what may change before it runs, at most GAS_CAP.

    An estimate above the cap stays as it is: chains without a cap accept it, others refuse it.
    """
    return max(gas, min(gas + gas * GAS_MARGIN_PERCENT // 100, GAS_CAP))


def transaction_fields(
    chain_id: int, to: str | None, data: bytes, value: int, gas: int, offer: TransactionFees
) -> dict[str, Any]:
    """The fields of an EIP-1559 transaction, without its nonce."""
    fields: dict[str, Any] = {
        "type": 2,
        "chainId": chain_id,
        "data": data,
        "value": value,
        "gas": gas,
        "maxFeePerGas": max(offer.maximum, offer.priority),
        "maxPriorityFeePerGas": offer.priority,
    }
    if to is not None:
        fields["to"] = Web3.to_checksum_address(to)
    return fields


def _call_fields(
    to: str | None, data: bytes, sender: str | None, value: int, gas: int | None
) -> TxParams:
    fields: TxParams = {"data": data, "value": Web3.to_wei(value, "wei")}
    if gas is not None:
        fields["gas"] = gas
    if to is not None:
        fields["to"] = Web3.to_checksum_address(to)
    if sender is not None:
        fields["from"] = Web3.to_checksum_address(sender)
    return fields


def _log(entry: Any) -> Log:
    return Log(
        address=entry["address"],
        topics=tuple(bytes(topic) for topic in entry["topics"]),
        data=bytes(entry["data"]),
        block_number=_int(entry["blockNumber"]),
        block_hash=_hex(entry["blockHash"]),
        tx_hash=_hex(entry["transactionHash"]),
        log_index=_int(entry["logIndex"]),
    )


def _int(value: Any) -> int:
    """Check that a node's number is an integer. Raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not an integer")
    return value


def _hex(value: Any) -> str:
    return "0x" + bytes(value).hex()
