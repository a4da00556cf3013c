"""What can go wrong in the market: the tree of errors, and one table of their stable codes.

MarketError                      market_error
├── InvalidInput                 invalid_request         members are wrong; all are listed
│   ├── RelayFee                 relay_fee               a signed call's fee does not suit
│   ├── CallExpired              call_expired            a signed call's deadline does not suit
│   ├── InvalidJob               invalid_job             a job spec is malformed
│   └── InvalidOrder             invalid_order           an order contradicts its node or job
├── InvalidSignature             invalid_signature       not made by the key that must have made it
├── Unauthenticated              unauthenticated         no credentials, or unknown or expired ones
├── Forbidden                    forbidden               known, but not allowed to do this
├── NotFound                     not_found               no such object, or not for the caller
├── Conflict                     conflict                the object is in another state
│   ├── PurseExpired             purse_expired           its operator may no longer spend from it
│   ├── NotRelayed               not_relayed             the market sends no signed calls of others
│   ├── CallUsed                 call_used               a signed call's number is used or void
│   ├── CallRefused              call_refused            the chain would refuse a signed call
│   ├── AlreadyExists            already_exists          a unique name, salt or UUID is taken
│   ├── IdempotencyMismatch      idempotency_mismatch    the key was used with another body
│   └── IdempotencyInFlight      idempotency_in_flight   the first request with the key still runs
├── InsufficientBalance          insufficient_balance    below the lock; `facts`: the shortfall
├── BudgetExceeded               budget_exceeded         a budget or spend cap would be passed
├── NoCapacity                   no_capacity             nothing matches; `facts`: why
├── AttestationRefused           attestation_refused     a reading was wrong; `facts`: its reason
├── TooLarge                     too_large               a body or blob is above its limit
├── RateLimited                  rate_limited            too many; `facts`: when to come back
│   └── TooManyStops             too_many_stops          leases stopped before they were ready
└── Unavailable                  unavailable             a part is down or overloaded for now

Every error carries `problems`: pointers into the input and what is wrong there (may be empty).
`ERRORS` has a row for each code that the API answers. Problem documents, the client's exceptions,
the command line's exit codes and docs/errors.md come from it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar


class ExitCode(IntEnum):
    """What a command ends with."""

    OK = 0
    ERROR = 1
    USAGE = 2
    AUTH = 3
    NOT_FOUND = 4
    CONFLICT = 5
    FUNDS = 6
    NO_CAPACITY = 7
    JOB_FAILED = 8
    CHAIN = 9
    RETRY_LATER = 75
    TIMED_OUT = 124
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One stable code: its HTTP status, a title that never changes, what it means, what to do.

    `retryable`: the same request may succeed later. `exit_code` ends a command that meets it.
    """

    code: str
    status: int
    title: str
    meaning: str
    fix: str
    exit_code: ExitCode = ExitCode.ERROR
    retryable: bool = False


_TABLE = (
    ErrorKind(
        "malformed_json", 400, "Malformed JSON",
        "The body is not JSON, or nests too deep.",
        "Send one JSON object in UTF-8.",
    ),
    ErrorKind(
        "invalid_request", 422, "Invalid request",
        "Members or parameters are wrong; `errors` lists them all.",
        "Correct what `errors` names.",
    ),
    ErrorKind(
        "invalid_job", 422, "Invalid job",
        "The job spec is wrong; `errors` lists every mistake.",
        "Correct what `errors` names in the job file.",
    ),
    ErrorKind(
        "invalid_order", 422, "Invalid order",
        "A signed order contradicts its node, its job or the market; `errors` says where.",
        "Prepare the order again and sign that.",
    ),
    ErrorKind(
        "invalid_signature", 422, "Invalid signature",
        "The signature is malformed, or it is not by the key, for the contract and for the chain "
        "that it must be.",
        "Sign with the account that the detail names, for the contract and chain of /v1/config.",
    ),
    ErrorKind(
        "unauthenticated", 401, "Unauthenticated",
        "No API key, or one that is unknown, expired or revoked.",
        "Make a key with `coulomb key create`, or set COULOMB_API_KEY.",
        ExitCode.AUTH,
    ),
    ErrorKind(
        "forbidden", 403, "Forbidden",
        "The API key lacks the scope, or the account the right.",
        "Make a key with the scope: `coulomb key create --scope …`.",
        ExitCode.AUTH,
    ),
    ErrorKind(
        "not_found", 404, "Not found",
        "There is no such object, or the caller may not see it.",
        "Check the id, and whose API key is used.",
        ExitCode.NOT_FOUND,
    ),
    ErrorKind(
        "method_not_allowed", 405, "Method not allowed",
        "The path has no such method.",
        "See /v1/docs for the methods of each path.",
    ),
    ErrorKind(
        "too_slow", 408, "Too slow",
        "The body did not arrive in time.",
        "Send the request again.",
        ExitCode.RETRY_LATER, True,
    ),
    ErrorKind(
        "conflict", 409, "Conflict",
        "The object's state does not allow this now.",
        "Look at the object's state; the detail says what it must be.",
        ExitCode.CONFLICT,
    ),
    ErrorKind(
        "illegal_transition", 409, "Illegal transition",
        "The object's state has no such next step.",
        "Look at the object's state.",
        ExitCode.CONFLICT,
    ),
    ErrorKind(
        "purse_expired", 409, "Purse expired",
        "The purse's operator may no longer sign bids or top-ups for it, or make API keys.",
        "Let its owner make another: `coulomb purse create OPERATOR`.",
        ExitCode.CONFLICT,
    ),
    ErrorKind(
        "not_relayed", 409, "Not relayed",
        "This market sends no withdrawals and top-ups that others signed.",
        "Send it yourself: leave out `--relayed`.",
        ExitCode.CONFLICT,
    ),
    ErrorKind(
        "relay_fee", 422, "Relay fee",
        "The fee of the signed call is below the market's `relay_fee`, or not below the amount.",
        "Sign it with the `relay_fee` of /v1/config, for a larger amount.",
    ),
    ErrorKind(
        "call_expired", 422, "Call expired",
        "The deadline of the signed call has passed, is about to, or lies too far ahead.",
        "Sign it anew, with a deadline ten minutes ahead.",
    ),
    ErrorKind(
        "call_used", 409, "Call used",
        "The number of the signed call was used, is cancelled, or belongs to another call.",
        "Look at `GET /v1/calls/call_NUMBER`; sign the next one with another number.",
        ExitCode.CONFLICT,
    ),
    ErrorKind(
        "call_refused", 409, "Call refused",
        "The escrow would refuse the signed call; the detail has its reason. Nothing was sent.",
        "Remove the reason, or send the call yourself.",
        ExitCode.CONFLICT,
    ),
    ErrorKind(
        "already_exists", 409, "Already exists",
        "A number, salt, UUID or order is taken.",
        "Use another one; prepared orders have a fresh salt.",
        ExitCode.CONFLICT,
    ),
    ErrorKind(
        "idempotency_mismatch", 422, "Idempotency key reused",
        "The Idempotency-Key was first used with another request.",
        "Use a new key for a new request.",
        ExitCode.CONFLICT,
    ),
    ErrorKind(
        "idempotency_in_flight", 409, "Request in flight",
        "The first request with this Idempotency-Key has not finished.",
        "Send the same request again in a moment.",
        ExitCode.RETRY_LATER, True,
    ),
    ErrorKind(
        "insufficient_balance", 402, "Insufficient balance",
        "The free escrow balance does not cover the lock; `shortfall` says by how much.",
        "`coulomb wallet deposit AMOUNT`",
        ExitCode.FUNDS,
    ),
    ErrorKind(
        "budget_exceeded", 402, "Budget exceeded",
        "The job would pass the API key's spend cap.",
        "Use a key with a higher spend cap.",
        ExitCode.FUNDS,
    ),
    ErrorKind(
        "no_capacity", 409, "No capacity",
        "No ask matches; `explanation` says why.",
        "Change the job as `explanation` proposes, or let it wait with `retry`.",
        ExitCode.NO_CAPACITY,
    ),
    ErrorKind(
        "attestation_refused", 422, "Attestation refused",
        "The attestation was recorded as refused; `reason` says why.",
        "Correct the meter; see `reason`.",
    ),
    ErrorKind(
        "too_large", 413, "Too large",
        "The body is above the limit of this route.",
        "Send less; a blob has at most 64 MiB.",
    ),
    ErrorKind(
        "unsupported_media_type", 415, "Unsupported media type",
        "The body is of another type than this route takes.",
        "Send `Content-Type: application/json`.",
    ),
    ErrorKind(
        "rate_limited", 429, "Rate limited",
        "The caller sends too many requests.",
        "Wait as long as Retry-After says.",
        ExitCode.RETRY_LATER, True,
    ),
    ErrorKind(
        "too_many_stops", 429, "Too many stops",
        "Too many leases of the account were stopped within an hour before their jobs were ready.",
        "Wait as long as Retry-After says, and let jobs start before you end them.",
        ExitCode.RETRY_LATER, True,
    ),
    ErrorKind(
        "unavailable", 503, "Unavailable",
        "The server is overloaded or restarting, or a part of it is down.",
        "Wait as long as Retry-After says.",
        ExitCode.RETRY_LATER, True,
    ),
    ErrorKind(
        "chain_unavailable", 503, "Chain unavailable",
        "The server cannot reach the chain.",
        "Try again later.",
        ExitCode.CHAIN, True,
    ),
    ErrorKind(
        "market_error", 500, "Internal error",
        "Something is wrong with the server; its log has the rest.",
        "Tell the operator the `request_id`.",
        ExitCode.ERROR, True,
    ),
)  # fmt: skip
ERRORS = {kind.code: kind for kind in _TABLE}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with an input: an RFC 6901 pointer and a sentence."""

    pointer: str
    detail: str


class MarketError(Exception):
    """Root of everything the market raises."""

    code: ClassVar[str] = "market_error"

    def __init__(
        self, detail: str, *, problems: Iterable[Problem] = (), facts: dict[str, Any] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.problems = tuple(problems)
        self.facts = facts or {}


class InvalidInput(MarketError):
    code = "invalid_request"

    def __init__(self, problems: Iterable[Problem], detail: str = "") -> None:
        found = tuple(problems)
        text = detail or "; ".join(f"{p.pointer or '/'}: {p.detail}" for p in found)
        super().__init__(text, problems=found)


class RelayFee(InvalidInput):
    code = "relay_fee"


class CallExpired(InvalidInput):
    code = "call_expired"


class InvalidJob(InvalidInput):
    code = "invalid_job"


class InvalidOrder(InvalidInput):
    code = "invalid_order"


class InvalidSignature(MarketError):
    code = "invalid_signature"


class Unauthenticated(MarketError):
    code = "unauthenticated"


class Forbidden(MarketError):
    code = "forbidden"


class NotFound(MarketError):
    code = "not_found"


class Conflict(MarketError):
    code = "conflict"


class PurseExpired(Conflict):
    code = "purse_expired"


class NotRelayed(Conflict):
    code = "not_relayed"


class CallUsed(Conflict):
    code = "call_used"


class CallRefused(Conflict):
    code = "call_refused"


class AlreadyExists(Conflict):
    code = "already_exists"


class IdempotencyMismatch(Conflict):
    code = "idempotency_mismatch"


class IdempotencyInFlight(Conflict):
    code = "idempotency_in_flight"


class InsufficientBalance(MarketError):
    code = "insufficient_balance"


class BudgetExceeded(MarketError):
    code = "budget_exceeded"


class NoCapacity(MarketError):
    code = "no_capacity"


class AttestationRefused(MarketError):
    code = "attestation_refused"


class TooLarge(MarketError):
    code = "too_large"


class RateLimited(MarketError):
    """The caller asks too often; `facts["retry_after_seconds"]` says when to come back."""

    code = "rate_limited"


class TooManyStops(RateLimited):
    code = "too_many_stops"


class Unavailable(MarketError):
    code = "unavailable"
