"""What can go wrong in settlement, as one tree.

SettlementError
├── FieldError            a value is out of its bounds or of the wrong form (also a ValueError)
├── SignatureError        a signature is malformed, malleable or not the expected signer's
├── ChainError            the chain could not be reached or answered with an error
│   ├── ChainUnavailable  no usable answer: whether a transaction just sent arrived is unknown
│   ├── WrongChain        the node serves another chain than the one expected
│   ├── SendRejected      the node refused a signed transaction; `reason` says why
│   ├── FeeAboveCap       the base fee is above what is ever offered; nothing was signed
│   ├── OutcomeUnknown    signed and handed over, not seen mined: it may be, look before repeating
│   └── CallReverted      the contract refused; carries the custom error's name and arguments
├── OutboxConflict        the store holds something else: another payload, a later state, a nonce
├── KeystoreError         a key file cannot be read or its password is wrong
├── CompileError          no compiler, a contract that does not compile, or an artifact out of date
└── DeploymentError       no deployment, or one that does not match the shipped artifacts
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class SettlementError(Exception):
    """Root of everything this package raises; `code` is stable for programs."""

    code = "settlement_error"


class FieldError(SettlementError, ValueError):
    """A field is out of bounds or malformed; `pointer` is an RFC 6901 path into the input."""

    code = "invalid_field"

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(f"{pointer or '/'}: {detail}")
        self.pointer = pointer
        self.detail = detail


class SignatureError(SettlementError):
    """A signature is malformed, malleable, or was made by another key."""

    code = "invalid_signature"


class ChainError(SettlementError):
    """The chain is unreachable or answered with an error."""

    code = "chain_error"


class ChainUnavailable(ChainError):
    """The node is down, slow, overloaded or talks garbage; what was sent may have arrived."""

    code = "chain_unavailable"


class WrongChain(ChainError):
    """The node serves another chain id than the deployment names."""

    code = "wrong_chain"


class SendReason(StrEnum):
    """Why a node refuses a signed transaction."""

    NONCE_TOO_LOW = "nonce_too_low"
    UNDERPRICED = "underpriced"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    BUSY = "busy"  # a full pool, or an earlier nonce is missing: the same bytes pass later
    OTHER = "other"


class SendRejected(ChainError):
    """The node refused a signed transaction: it is not in its pool."""

    code = "send_rejected"

    def __init__(self, reason: SendReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class FeeAboveCap(ChainError):
    """The base fee is above the most that is ever offered; nothing was signed."""

    code = "fee_above_cap"


class OutcomeUnknown(ChainError):
    """A transaction was signed and handed over, and nobody saw it mined: it may still be.

    No ChainUnavailable: what is safe to try again there would pay twice here.
    """

    code = "outcome_unknown"

    def __init__(self, tx_hash: str, why: str) -> None:
        super().__init__(
            f"transaction {tx_hash}: {why}; it may still be mined: look it up before you repeat"
        )
        self.tx_hash = tx_hash


class CallReverted(ChainError):
    """The contract refused a call."""

    code = "call_reverted"

    def __init__(self, name: str, args: tuple[Any, ...] = ()) -> None:
        super().__init__(f"{name}({', '.join(str(a) for a in args)})")
        self.name = name
        self.arguments = args


class OutboxConflict(SettlementError):
    """A key has another payload, an intent has moved on, or a nonce is already given away."""

    code = "outbox_conflict"


class KeystoreError(SettlementError):
    """A key file is missing, unreadable or locked with another password."""

    code = "keystore_error"


class CompileError(SettlementError):
    """No compiler, a contract that does not compile, or artifacts other than the sources give."""

    code = "compile_error"


class DeploymentError(SettlementError):
    """The contracts are not deployed here, or differ from the shipped artifacts."""

    code = "deployment_error"
