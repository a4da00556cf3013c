"""Every error of settlement.

SettlementError
├── FieldError            a value is out of bounds or malformed (also a ValueError)
├── SignatureError        a signature is malformed, malleable or not the expected signer's
│   └── PurseRefused      a purse's terms do not let the signer sign this for it
│       └── ExpiredPurse  its operator signed after its expiry
├── ChainError            the node answered with an error, or one of these happened:
│   ├── ChainUnavailable  no usable answer came; a transaction just sent may have arrived
│   ├── WrongChain        the node serves another chain than expected
│   ├── SendRejected      the node refused a signed transaction; `reason` says why
│   ├── FeeAboveCap       the base fee is above the most we ever offer; nothing was signed
│   ├── OutcomeUnknown    a sent transaction was not seen mined: look it up before repeating it
│   └── CallReverted      the contract refused; has the custom error's name and arguments
├── OutboxConflict        the outbox has another payload, a later state, or the nonce is taken
├── KeystoreError         a key file cannot be read or written, or its password is wrong
└── DeploymentError       there is no deployment, or it does not match the shipped artifacts
"""

import re
from enum import StrEnum
from typing import Any


def host_of(url: str) -> str:
    """An address for a message: without path and user name, which may hold somebody's secrets."""
    scheme, _, rest = url.partition("://")
    host = re.split(r"[/?#\\]", rest)[0].rpartition("@")[2]
    return f"{scheme}://{host}" if host else "an address without a host"


class SettlementError(Exception):
    """Root of every error of this package. `code` is stable."""

    code = "settlement_error"


class FieldError(SettlementError, ValueError):
    """A field is out of bounds or malformed. `pointer` is an RFC 6901 path into the input."""

    code = "invalid_field"

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(f"{pointer or '/'}: {detail}")
        self.pointer = pointer
        self.detail = detail


class SignatureError(SettlementError):
    code = "invalid_signature"


class PurseRefused(SignatureError): ...


class ExpiredPurse(PurseRefused):
    code = "purse_expired"


class ChainError(SettlementError):
    code = "chain_error"


class ChainUnavailable(ChainError):
    code = "chain_unavailable"


class WrongChain(ChainError):
    code = "wrong_chain"


class SendReason(StrEnum):
    """Why a node refuses a signed transaction."""

    NONCE_TOO_LOW = "nonce_too_low"
    UNDERPRICED = "underpriced"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    BUSY = "busy"  # the pool is full or an earlier nonce is missing: send the same bytes later
    OTHER = "other"


class SendRejected(ChainError):
    code = "send_rejected"

    def __init__(self, reason: SendReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class FeeAboveCap(ChainError):
    code = "fee_above_cap"


class OutcomeUnknown(ChainError):
    """Not a ChainUnavailable: a blind retry could pay twice."""

    code = "outcome_unknown"

    def __init__(self, tx_hash: str, why: str) -> None:
        fix = "it may still be mined: look it up before you repeat it"
        super().__init__(f"transaction {tx_hash}: {why}; {fix}")
        self.tx_hash = tx_hash


class CallReverted(ChainError):
    code = "call_reverted"

    def __init__(self, name: str, args: tuple[Any, ...] = ()) -> None:
        super().__init__(f"{name}({', '.join(f'{a!s:.200}' for a in args)})")
        self.name = name
        self.arguments = args


class OutboxConflict(SettlementError):
    code = "outbox_conflict"


class KeystoreError(SettlementError):
    code = "keystore_error"


class DeploymentError(SettlementError):
    code = "deployment_error"
