"""What can go wrong when talking to Coulomb, as one tree.

CoulombError
├── ConfigError                 no profile, no key, or a setting that makes no sense
├── InputError                  a job file, a folder or an argument is wrong; nothing was sent
│   └── NotEnough               more money than the account holds
├── VerificationError           the server's document differs from what was asked; not signed
├── ProtocolError               the server's answer is not what the API promises
├── TransportError              no answer; `sent` tells whether the server may have acted
│   ├── ConnectFailed           never reached the server
│   └── TimedOut                no answer in time
├── RelayFailed                 the market's relayer gave up a signed call; it did nothing
├── WaitTimeout                 a wait ended before its job did; the job goes on
└── ApiError                    the server refused (RFC 9457 problem)
    ├── AuthError
    │   ├── Unauthenticated     401 no key, or one that is unknown, expired or revoked
    │   └── Forbidden           403 the key lacks the scope
    ├── NotFound                404 no such object, or not yours to see
    ├── Conflict                409 the object's state forbids it
    │   ├── InFlight            409 the same Idempotency-Key is being worked on
    │   └── IdempotencyMismatch 409, 422 the same Idempotency-Key with another body
    ├── FundsError              402 money is missing, or more than allowed
    │   ├── InsufficientBalance 402 the free escrow balance does not cover the lock
    │   └── BudgetExceeded      402 more than the budget or the key's spend cap
    ├── Rejected                400, 413, 415, 422 the request itself is wrong
    │   ├── InvalidSignature    422 the signature is not the expected signer's
    │   └── AttestationRefused  422 a reading goes back, ahead or elsewhere
    ├── NoCapacity              nothing on the book matches; the problem says why
    ├── RateLimited             429 `retry_after` says when to come again
    └── ServerError             5xx the server failed
        ├── Unavailable         502, 503, 504 come again later
        └── ChainUnavailable    5xx the server cannot reach the chain
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from marketplace.errors import ERRORS, ErrorKind, InvalidInput
from marketplace.wire.problems import ProblemDocument, problems_of

__all__ = [
    "ApiError", "AttestationRefused", "AuthError", "BudgetExceeded", "ChainUnavailable",
    "ConfigError", "Conflict", "ConnectFailed", "CoulombError", "Forbidden", "FundsError",
    "IdempotencyMismatch", "InFlight", "InputError", "InsufficientBalance", "InvalidSignature",
    "NoCapacity", "NotEnough", "NotFound", "ProtocolError", "RateLimited", "Rejected",
    "RelayFailed", "ServerError", "TimedOut", "TransportError", "Unauthenticated", "Unavailable",
    "VerificationError", "WaitTimeout", "error_of", "problem_of",
]  # fmt: skip


class CoulombError(Exception):
    """Root of everything the SDK raises on purpose. `fix` says what to do, if we know."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix


class ConfigError(CoulombError): ...


class InputError(CoulombError):
    """What the caller gave is wrong; `pointer` is where (RFC 6901), if that is known."""

    def __init__(self, message: str, fix: str = "", pointer: str = "") -> None:
        super().__init__(message, fix)
        self.pointer = pointer


class NotEnough(InputError): ...


class VerificationError(CoulombError): ...


class ProtocolError(CoulombError): ...


class TransportError(CoulombError):
    """No answer arrived. `sent`: whether the server may have received the request."""

    sent = True


class ConnectFailed(TransportError):
    """The server was never reached."""

    sent = False


class TimedOut(TransportError): ...


class RelayFailed(CoulombError): ...


class WaitTimeout(CoulombError): ...


BY_CODE: dict[str, type["ApiError"]] = {}
BY_STATUS: dict[int, type["ApiError"]] = {}


class ApiError(CoulombError):
    """The server refused; `problem` is its whole answer, `code` is stable.

    `retry_after` is in seconds; `request_id` is what to quote to the operator; `kind` is the code's
    row in the table of errors, None if this version does not know the code. A subclass says of
    which code, or of which statuses, it is the error.
    """

    def __init_subclass__(cls, code: str = "", statuses: tuple[int, ...] = ()) -> None:
        BY_STATUS.update(dict.fromkeys(statuses, cls))
        if code:
            BY_CODE[code] = cls

    def __init__(self, problem: ProblemDocument, retry_after: float | None = None) -> None:
        fields = [f"{field.pointer or '/'}: {field.detail}" for field in problem.errors]
        head = problem.detail or problem.title
        if head == "; ".join(fields):  # the server's summary of the same mistakes: said once
            head, fields = (head, []) if len(fields) == 1 else (problem.title, fields)
        self.kind: ErrorKind | None = ERRORS.get(problem.code)
        super().__init__("\n  ".join((head, *fields)), self.kind.fix if self.kind else "")
        self.problem = problem
        self.code, self.status, self.request_id = problem.code, problem.status, problem.request_id
        self.retry_after = retry_after


class AuthError(ApiError): ...


class Unauthenticated(AuthError, statuses=(401,)): ...


class Forbidden(AuthError, statuses=(403,)): ...


class NotFound(ApiError, statuses=(404,)): ...


class Conflict(ApiError, statuses=(409,)): ...


class InFlight(Conflict, code="idempotency_in_flight"): ...


class IdempotencyMismatch(Conflict, code="idempotency_mismatch"): ...


class FundsError(ApiError, statuses=(402,)): ...


class InsufficientBalance(FundsError, code="insufficient_balance"): ...


class BudgetExceeded(FundsError, code="budget_exceeded"): ...


class Rejected(ApiError, statuses=(400, 413, 415, 422)): ...


class InvalidSignature(Rejected, code="invalid_signature"): ...


class AttestationRefused(Rejected, code="attestation_refused"): ...


class NoCapacity(ApiError, code="no_capacity"): ...


class RateLimited(ApiError, statuses=(429,)): ...


class ServerError(ApiError): ...


class Unavailable(ServerError, statuses=(408, 502, 503, 504)): ...


class ChainUnavailable(ServerError, code="chain_unavailable"): ...


def error_of(problem: ProblemDocument, retry_after: float | None = None) -> ApiError:
    """The exception for a problem: by its code, else by its status, else by its hundred."""
    other = ServerError if problem.status >= 500 else Rejected
    found = BY_CODE.get(problem.code) or BY_STATUS.get(problem.status, other)
    return found(problem, retry_after)


def problem_of(status: int, body: Any) -> ProblemDocument:
    """An answer's problem document; of anything else, one that only knows the status."""
    unknown = {
        "type": "about:blank", "title": f"HTTP {status}", "detail": "", "instance": "",
        "code": "unknown", "request_id": "", "retryable": False, "errors": [],
    }  # fmt: skip
    known = body if isinstance(body, dict) else {}
    try:
        return ProblemDocument.model_validate({**unknown, **known, "status": status})
    except ValidationError as error:
        wrong = {problem["loc"][0] for problem in error.errors()}
        sound = {name: member for name, member in known.items() if name not in wrong}
        return ProblemDocument.model_validate({**unknown, **sound, "status": status})


@contextmanager
def input_errors(what: str = "", fix: str = "") -> Iterator[None]:
    """Raise InputError for what the caller said wrongly, with every mistake and its place."""
    try:
        yield
    except (InvalidInput, ValidationError) as error:
        if isinstance(error, InvalidInput):
            found = error.problems
        else:
            found = problems_of(error.errors())
        lines = [f"{problem.pointer or '/'}: {problem.detail}" for problem in found]
        text = "\n  ".join([f"{what}:", *lines]) if what else "; ".join(lines)
        raise InputError(text, fix, found[0].pointer if found else "") from error
