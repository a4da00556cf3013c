"""What both clients know of HTTP: what to repeat, how long to wait, which error an answer means."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from marketplace.limits import ANSWER_BYTES_MAX
from marketplace.sdk.errors import (
    ApiError,
    ConfigError,
    ConnectFailed,
    ProtocolError,
    TimedOut,
    TransportError,
    error_of,
    problem_of,
)
from settlement import strict_json

USER_AGENT = "coulomb-python/0.1"
DEFAULT_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
STREAM_TIMEOUT = httpx.Timeout(60.0, connect=5.0)  # the server sends a comment sooner than that
ANSWER_SECONDS_MAX = 600.0
LIMITS = httpx.Limits(max_connections=20, max_keepalive_connections=10)
RETRY_STATUSES = frozenset({429, 502, 503, 504})
SAFE_METHODS = frozenset({"GET", "PUT", "DELETE"})


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a repeatable request is sent again. Times are in seconds.

    A wait is drawn evenly from the upper half of the back-off, so that clients spread out. A
    Retry-After above `wait_max` is not waited for: the error carries it to the caller.
    """

    attempts: int = 4
    first: float = 0.2
    wait_max: float = 10.0
    draw: Callable[[], float] = random.random

    def wait(self, attempt: int, retry_after: float | None = None) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1)."""
        if retry_after is not None:
            return retry_after
        most = min(self.wait_max, self.first * 2.0 ** (attempt - 1))
        return most * (0.5 + self.draw() / 2)

    def wait_after(self, error: ApiError | TransportError, attempt: int) -> float | None:
        """Seconds until the next attempt; None where another one is of no use."""
        retry_after = error.retry_after if isinstance(error, ApiError) else None
        patient = retry_after is None or retry_after <= self.wait_max
        if not (may_pass(error) and patient and attempt < self.attempts):
            return None
        return self.wait(attempt, retry_after)


NO_RETRIES = RetryPolicy(attempts=1)


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    if isinstance(error, ApiError):
        return error.problem.retryable or error.status in RETRY_STATUSES
    return isinstance(error, TransportError)


def client_options(
    api_url: str, api_key: str | None, timeout: httpx.Timeout | float
) -> dict[str, Any]:
    """What both kinds of httpx client are made with. Raises ConfigError for a wrong address."""
    if not api_url.startswith(("http://", "https://")):
        raise ConfigError(
            f"{api_url!r} is not an API address", fix="it begins with http:// or https://"
        )
    # Compressed answers would have to be unpacked before their size is known.
    headers = {
        "User-Agent": USER_AGENT,
        "Accept": "application/json",
        "Accept-Encoding": "identity",
    }
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    return {"base_url": api_url, "headers": headers, "timeout": timeout, "limits": LIMITS}


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def json_of(body: bytes, bytes_max: int = ANSWER_BYTES_MAX) -> Any:
    """The JSON of an answer. Raises ProtocolError."""
    try:
        return strict_json.loads(body, bytes_max)
    except strict_json.JsonError as error:
        start = body[:80].decode(errors="replace")
        raise ProtocolError(f"the answer is not the API's JSON ({error}): {start!r}") from None


def check_answer(response: httpx.Response) -> None:
    """Refuse what no API answers with. Raises ProtocolError."""
    if response.is_redirect:
        where = response.headers.get("location", "")
        raise ProtocolError(
            f"{response.url} redirects to {where!r:.200}, and redirects are not followed",
            fix="set api_url to the address that answers",
        )
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ProtocolError(f"{response.url}: a compressed answer, which was not asked for")


def refusal_of(response: httpx.Response, body: bytes) -> ApiError:
    """The error for a status of 400 and above, even where the body is no problem document."""
    try:
        document = strict_json.loads(body)
    except strict_json.JsonError:
        document = None
    problem = problem_of(response.status_code, document)
    return error_of(problem, retry_after_of(response.headers))


def retry_after_of(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After header, given as seconds or as a date (RFC 9110, 10.2.3)."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())


def transport_error(error: httpx.RequestError, method: str, path: str) -> TransportError:
    """The SDK's error for one of httpx's."""
    where = f"{method} {path}"
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return ConnectFailed(f"{where}: cannot reach the server ({error})")
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"{where}: no answer in time")
    return TransportError(f"{where}: the connection broke ({error})")
