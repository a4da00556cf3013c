"""Sending one request well: errors mapped, safe ones repeated with back-off and Retry-After."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from marketplace.sdk.errors import ApiError, Problem, ProtocolError, TransportError, error_of
from marketplace.sdk.flow import Flow, Request, Response, Sleep
from settlement.strict_json import JsonError, loads

RETRY_STATUSES = frozenset({429, 502, 503, 504})
ANSWER_BYTES_MAX = 64 * 1024 * 1024  # as large as the largest blob


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a repeatable request is sent again. Times are in seconds.

    A wait is drawn evenly from the upper half of the back-off, so that clients spread out. A
    Retry-After above `wait_max` is not waited for: the error carries it to the caller.
    """

    attempts: int = 4
    first: float = 0.2
    wait_max: float = 10.0

    def wait(self, attempt: int, retry_after: float | None, draw: Callable[[], float]) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1)."""
        if retry_after is not None:
            return retry_after
        most = min(self.wait_max, self.first * 2.0 ** (attempt - 1))
        return most * (0.5 + draw() / 2)


NO_RETRIES = RetryPolicy(attempts=1)


def retry_after_of(response: Response, now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After header, given as seconds or as a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())


def json_of(response: Response) -> Any:
    """The JSON body of an answer. Raises ProtocolError if it is not sound JSON."""
    try:
        return loads(response.body, ANSWER_BYTES_MAX)
    except JsonError as error:
        start = response.body[:80].decode(errors="replace")
        where = f"(HTTP {response.status}: {error})"
        raise ProtocolError(f"expected JSON, got {start!r} {where}") from None


def problem_of(response: Response) -> Problem:
    """The problem of a refused request, even where the body is no problem document."""
    try:
        body = loads(response.body, ANSWER_BYTES_MAX)
    except JsonError:
        body = None
    return Problem.parse(response.status, body, retry_after_of(response))


def send(
    request: Request,
    policy: RetryPolicy | None = None,
    draw: Callable[[], float] = random.random,
) -> Flow[Response]:
    """Send, repeat while that is safe and useful, and raise what the last attempt ended in."""
    policy = policy or RetryPolicy()
    attempt = 0
    while True:
        attempt += 1
        failure: ApiError | TransportError
        retry_after: float | None = None
        try:
            response: Response = yield request
        except TransportError as error:
            failure, useful = error, True
        else:
            if response.status < 400:
                return response
            problem = problem_of(response)
            failure, retry_after = error_of(problem), problem.retry_after
            useful = problem.retryable or problem.status in RETRY_STATUSES
        patient = retry_after is None or retry_after <= policy.wait_max
        if not (useful and patient and request.may_retry and attempt < policy.attempts):
            raise failure
        yield Sleep(policy.wait(attempt, retry_after, draw))
