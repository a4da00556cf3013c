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
├── WaitTimeout                 a wait ended before its job did
└── ApiError                    the server refused (RFC 9457 problem)
    ├── AuthError
    │   ├── Unauthenticated     401 no key, or one that is unknown, expired or revoked
    │   └── Forbidden           403 the key lacks the scope
    ├── NotFound                404
    ├── Conflict                409 the object's state forbids it
    │   ├── InFlight            409 the same Idempotency-Key is being worked on
    │   └── IdempotencyMismatch 409, 422 the same Idempotency-Key with another body
    ├── FundsError
    │   ├── InsufficientBalance 402 the free escrow balance does not cover the lock
    │   └── BudgetExceeded      402 more than the budget or the key's spend cap
    ├── Rejected                400, 413, 415, 422 the request itself is wrong
    │   ├── InvalidSignature    422 the signature is not the expected signer's
    │   └── AttestationRefused  422 a reading goes back, ahead or elsewhere
    ├── NoCapacity              nothing on the book matches; the problem says why
    ├── RateLimited             429
    └── ServerError             5xx
        ├── Unavailable         502, 503, 504 come again later
        └── ChainUnavailable    5xx the server cannot reach the chain
"""

from typing import Any

from pydantic import ValidationError

from marketplace.errors import ERRORS, ErrorKind
from marketplace.wire.problems import ProblemDocument

__all__ = [
    "ApiError",
    "AttestationRefused",
    "AuthError",
    "BudgetExceeded",
    "ChainUnavailable",
    "ConfigError",
    "Conflict",
    "ConnectFailed",
    "CoulombError",
    "Forbidden",
    "FundsError",
    "IdempotencyMismatch",
    "InFlight",
    "InputError",
    "InsufficientBalance",
    "InvalidSignature",
    "NoCapacity",
    "NotEnough",
    "NotFound",
    "ProtocolError",
    "RateLimited",
    "Rejected",
    "ServerError",
    "TimedOut",
    "TransportError",
    "Unauthenticated",
    "Unavailable",
    "VerificationError",
    "WaitTimeout",
    "error_of",
    "problem_of",
]


class CoulombError(Exception):
    """Root of everything the SDK raises on purpose. `fix` says what to do, where we know."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix


class ConfigError(CoulombError):
    """A profile, key or setting is missing or makes no sense."""


class InputError(CoulombError):
    """What the caller gave is wrong; `pointer` is where (RFC 6901), where that is known."""

    def __init__(self, message: str, fix: str = "", pointer: str = "") -> None:
        super().__init__(message, fix)
        self.pointer = pointer


class NotEnough(InputError):
    """More money is asked for than the account holds."""


class VerificationError(CoulombError):
    """The server asked to sign something else than what was meant; nothing was signed."""


class ProtocolError(CoulombError):
    """The server's answer is not what the API promises."""


class TransportError(CoulombError):
    """No answer arrived. `sent`: whether the server may have received the request."""

    sent = True


class ConnectFailed(TransportError):
    """The server was never reached."""

    sent = False


class TimedOut(TransportError):
    """No answer arrived in time."""


class WaitTimeout(CoulombError):
    """A wait ended before its job did; the job goes on."""


class ApiError(CoulombError):
    """The server refused; `problem` is its whole answer, `code` is stable.

    `retry_after` is in seconds; `kind` is the code's row in the table of errors, None if this
    version does not know the code.
    """

    def __init__(self, problem: ProblemDocument, retry_after: float | None = None) -> None:
        fields = [f"{field.pointer or '/'}: {field.detail}" for field in problem.errors]
        head = problem.detail or problem.title
        if head == "; ".join(fields):  # the server's summary of the same mistakes: said once
            head, fields = (head, []) if len(fields) == 1 else (problem.title, fields)
        self.kind: ErrorKind | None = ERRORS.get(problem.code)
        super().__init__("\n  ".join((head, *fields)), self.kind.fix if self.kind else "")
        self.problem = problem
        self.retry_after = retry_after

    @property
    def code(self) -> str:
        """The stable code of the problem."""
        return self.problem.code

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status

    @property
    def request_id(self) -> str:
        """What to quote to the operator."""
        return self.problem.request_id


class AuthError(ApiError):
    """Who is asking is unknown or may not."""


class Unauthenticated(AuthError):
    """No key, or one that is unknown, expired or revoked."""


class Forbidden(AuthError):
    """The key lacks the scope this needs."""


class NotFound(ApiError):
    """No such object, or not yours to see."""


class Conflict(ApiError):
    """The object's state forbids it."""


class InFlight(Conflict):
    """Another request with the same Idempotency-Key is being worked on."""


class IdempotencyMismatch(Conflict):
    """The same Idempotency-Key was used with another body."""


class FundsError(ApiError):
    """Money is missing, or more than allowed."""


class InsufficientBalance(FundsError):
    """The free escrow balance does not cover the lock."""


class BudgetExceeded(FundsError):
    """More than the budget or the key's spend cap."""


class Rejected(ApiError):
    """The request itself is wrong; the same again will be refused again."""


class InvalidSignature(Rejected):
    """The signature is malformed or another signer's."""


class AttestationRefused(Rejected):
    """A reading goes back, is ahead of the clock, or belongs elsewhere."""


class NoCapacity(ApiError):
    """Nothing on the book matches."""


class RateLimited(ApiError):
    """Too many requests; `retry_after` says when to come again."""


class ServerError(ApiError):
    """The server failed."""


class Unavailable(ServerError):
    """The server cannot answer now; come again later."""


class ChainUnavailable(ServerError):
    """The server cannot reach the chain."""


# A code is more exact than a status, so codes are looked up first.
BY_CODE: dict[str, type[ApiError]] = {
    "attestation_refused": AttestationRefused,
    "budget_exceeded": BudgetExceeded,
    "chain_unavailable": ChainUnavailable,
    "idempotency_in_flight": InFlight,
    "idempotency_mismatch": IdempotencyMismatch,
    "insufficient_balance": InsufficientBalance,
    "invalid_signature": InvalidSignature,
    "no_capacity": NoCapacity,
}
BY_STATUS: dict[int, type[ApiError]] = {
    400: Rejected,
    401: Unauthenticated,
    402: FundsError,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: Rejected,
    415: Rejected,
    422: Rejected,
    429: RateLimited,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def error_of(problem: ProblemDocument, retry_after: float | None = None) -> ApiError:
    """The exception for a problem: by its code, else by its status, else by its hundred."""
    found = BY_CODE.get(problem.code) or BY_STATUS.get(problem.status)
    if found is None:
        found = ServerError if problem.status >= 500 else Rejected
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
