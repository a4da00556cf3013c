"""What can go wrong in the market, as one tree; `code` is stable and is what the API answers.

MarketError                      market_error
├── InvalidInput                 invalid_request         members are wrong; all are listed
│   ├── InvalidJob               invalid_job             a job spec is malformed
│   └── InvalidOrder             invalid_order           an order contradicts its node or job
├── InvalidSignature             invalid_signature       not made by the key that must have made it
├── Unauthenticated              unauthenticated         no credentials, or unknown or expired ones
├── Forbidden                    forbidden               known, but not allowed to do this
├── NotFound                     not_found               no such object, or not for the caller
├── Conflict                     conflict                the object is in another state
│   ├── AlreadyExists            already_exists          a unique name, salt or UUID is taken
│   ├── IdempotencyMismatch      idempotency_mismatch    the key was used with another body
│   └── IdempotencyInFlight      idempotency_in_flight   the first request with the key still runs
├── InsufficientBalance          insufficient_balance    balance below the lock; how much
├── BudgetExceeded               budget_exceeded         a budget or spend cap would be passed
├── NoCapacity                   no_capacity             nothing matches; says why
├── AttestationRefused           attestation_refused     a reading goes back, ahead or elsewhere
├── TooLarge                     too_large               a body or blob is above its limit
├── RateLimited                  rate_limited            too many requests; says when to come back
└── Unavailable                  unavailable             a part is down or overloaded for now

Every error carries `problems`: pointers into the input and what is wrong there (may be empty).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with an input: an RFC 6901 pointer and a sentence."""

    pointer: str
    detail: str

    def to_json(self) -> dict[str, str]:
        """The form used in the `errors` member of RFC 9457 answers."""
        return {"pointer": self.pointer, "detail": self.detail}


class MarketError(Exception):
    """Root of everything the market raises."""

    code: ClassVar[str] = "market_error"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        detail: str,
        *,
        problems: Iterable[Problem] = (),
        facts: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.problems = tuple(problems)
        self.facts = facts or {}


class InvalidInput(MarketError):
    """The input is malformed; every mistake found is in `problems`."""

    code = "invalid_request"

    def __init__(self, problems: Iterable[Problem], detail: str = "") -> None:
        found = tuple(problems)
        text = detail or "; ".join(f"{p.pointer or '/'}: {p.detail}" for p in found)
        super().__init__(text, problems=found)


class InvalidJob(InvalidInput):
    """A job spec is malformed."""

    code = "invalid_job"


class InvalidOrder(InvalidInput):
    """An ask or a bid contradicts the node, the job or the market it is for."""

    code = "invalid_order"


class InvalidSignature(MarketError):
    """A signature is malformed or not by the key it must be by."""

    code = "invalid_signature"


class Unauthenticated(MarketError):
    """The caller gave no credentials, or ones that are unknown, revoked or expired."""

    code = "unauthenticated"


class Forbidden(MarketError):
    """The caller is known but may not do this."""

    code = "forbidden"


class NotFound(MarketError):
    """The object does not exist, or the caller may not know of it."""

    code = "not_found"


class Conflict(MarketError):
    """The object's state does not allow this now."""

    code = "conflict"


class AlreadyExists(Conflict):
    """A name, salt or UUID that must be unique is taken."""

    code = "already_exists"


class IdempotencyMismatch(Conflict):
    """The idempotency key was first used with another body."""

    code = "idempotency_mismatch"


class IdempotencyInFlight(Conflict):
    """The first request under this idempotency key has not finished."""

    code = "idempotency_in_flight"
    retryable = True


class InsufficientBalance(MarketError):
    """The escrow balance is below what must be locked; `facts` holds the shortfall in atoms."""

    code = "insufficient_balance"


class BudgetExceeded(MarketError):
    """A budget or a key's spend cap would be passed."""

    code = "budget_exceeded"


class NoCapacity(MarketError):
    """No ask matches; `facts` holds the explanation."""

    code = "no_capacity"


class AttestationRefused(MarketError):
    """A reading was refused; `facts` holds the reason's code."""

    code = "attestation_refused"


class TooLarge(MarketError):
    """A body or a blob is above its limit."""

    code = "too_large"


class RateLimited(MarketError):
    """The caller asks too often; `facts["retry_after_seconds"]` says when to come back."""

    code = "rate_limited"
    retryable = True


class Unavailable(MarketError):
    """A part the request needs is down or overloaded for now."""

    code = "unavailable"
    retryable = True
