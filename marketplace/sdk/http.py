"""What both clients know of HTTP: what to repeat and how patiently, how to read an answer, which
error it means, and how an event stream goes on over many connections."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from marketplace.domain.life import JOB_ENDED
from marketplace.limits import ANSWER_BYTES_MAX, EVENT_BYTES_MAX, STREAM_RETRY_MS_MAX
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
from marketplace.wire.base import Model
from marketplace.wire.jobs import JobEvent, read_streamed
from marketplace.wire.problems import problems_of
from settlement import strict_json
from settlement.errors import host_of

T = TypeVar("T", bound=Model)
USER_AGENT = "coulomb-python/0.1"
DEFAULT_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
STREAM_TIMEOUT = httpx.Timeout(60.0, connect=5.0)  # the server sends a comment sooner than that
LIMITS = httpx.Limits(max_connections=20, max_keepalive_connections=10)
RETRY_STATUSES = frozenset({429, 502, 503, 504})
SAFE_METHODS = frozenset({"GET", "PUT", "DELETE"})
EVENT_KINDS = frozenset({"status", "log", "metric", "cost", "receipt"})
EMPTY_ENDS_MAX = 3
SHOWN = 5


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
        """Seconds until the next attempt; None if another one is of no use."""
        retry_after, may_pass = None, True
        if isinstance(error, ApiError):
            retry_after = error.retry_after
            may_pass = error.problem.retryable or error.status in RETRY_STATUSES
        patient = retry_after is None or retry_after <= self.wait_max
        again = may_pass and patient and attempt < self.attempts
        return self.wait(attempt, retry_after) if again else None


NO_RETRIES = RetryPolicy(attempts=1)


def client_options(
    api_url: str, api_key: str | None, timeout: httpx.Timeout | float
) -> dict[str, Any]:
    """What both kinds of httpx client are made with. Raises ConfigError for a wrong address."""
    try:
        url = httpx.URL(api_url)
        sound = url.scheme in ("http", "https") and bool(url.host)
    except httpx.InvalidURL:
        sound = False
    if not sound:  # it may hold a password, so it is not shown
        fix = "it begins with http:// or https://; see api_url in the profile, or COULOMB_API_URL"
        raise ConfigError("api_url is not an API address", fix)
    if api_key and not (api_key.isascii() and api_key.isprintable()):
        raise ConfigError("the API key has characters that no key has")
    # Compressed answers would have to be unpacked before their size is known.
    headers = {"User-Agent": USER_AGENT, "Accept": "application/json"}
    headers |= {"Accept-Encoding": "identity"}
    headers |= {"Authorization": f"Bearer {api_key}"} if api_key else {}
    return {"base_url": api_url, "headers": headers, "timeout": timeout, "limits": LIMITS}


# -- answers --------------------------------------------------------------------------------------


def check_answer(response: httpx.Response) -> None:
    """Refuse what no API answers with. Raises ProtocolError."""
    if response.is_redirect:
        where = response.headers.get("location", "")
        raise ProtocolError(
            f"{host_of(str(response.url))} redirects to {where!r:.200}; redirects are not followed",
            fix="set api_url to the address that answers",
        )
    if response.headers.get("content-encoding", "identity") != "identity":
        raise ProtocolError(f"{host_of(str(response.url))}: a compressed answer was not asked for")


def json_of(body: bytes) -> Any:
    """The JSON of an answer. Raises ProtocolError."""
    try:
        return strict_json.loads(body, ANSWER_BYTES_MAX)
    except strict_json.JsonError as error:
        start = body[:80].decode(errors="replace")
        raise ProtocolError(f"the answer is not the API's JSON ({error}): {start!r}") from None


def read(kind: type[T], value: Any, where: str = "") -> T:
    """An answer as what it should be. Raises ProtocolError naming the members that do not fit."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        wrong = problems_of(error.errors())[:SHOWN]
        found = "; ".join(f"{where}{p.pointer or '/'}: {p.detail}" for p in wrong)
        raise ProtocolError(f"the answer is not a {kind.__name__}: {found}") from None


def read_page(
    kind: type[T], value: Any, path: str, cursor: str | None
) -> tuple[list[T], str | None]:
    """The items of one page, and the cursor of the next one. Raises ProtocolError."""
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise ProtocolError(f"{path}: expected a list with `data`")
    items = [read(kind, item, f"/data/{i}") for i, item in enumerate(value["data"])]
    following = value.get("next_cursor") if value.get("has_more") is True else None
    if following is not None and (not isinstance(following, str) or following == cursor):
        raise ProtocolError(f"{path}: the list does not go on after {cursor!r:.80}")
    return items, following


def refusal_of(response: httpx.Response, body: bytes) -> ApiError:
    """The error for a status of 400 and above, even if the body is not a problem document."""
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
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())
    except (ValueError, OverflowError):
        return None


def transport_error(error: httpx.RequestError, method: str, path: str) -> TransportError:
    """The SDK's error for one of httpx's."""
    where = f"{method} {path}"
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return ConnectFailed(f"{where}: cannot reach the server ({error})")
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"{where}: no answer in time")
    return TransportError(f"{where}: the connection broke ({error})")


# -- event streams --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event; `id` is the last id seen, which resumes the stream after this event."""

    type: str
    data: str
    id: str = ""
    retry_ms: int | None = None

    def json(self) -> Any:
        """The data as JSON. Raises ProtocolError."""
        try:
            return strict_json.loads(self.data, EVENT_BYTES_MAX)
        except strict_json.JsonError as error:
            raise ProtocolError(f"event {self.id or self.type} is not JSON: {error}") from None


class Resumption:
    """What is remembered of a stream between two of its connections.

    The stream is over if the server ends it after the job's final status, or again and again
    without an event: nothing was to come after the id it was resumed from.
    """

    def __init__(self, policy: RetryPolicy, last_id: str = "") -> None:
        self.over = False
        self.last_id = last_id
        self._policy = policy
        self._retry_seconds: float | None = None
        self._failures = self._empty_ends = 0
        self._final = False

    def note(self, event: ServerEvent) -> None:
        """An event came. Raises ProtocolError for an id that no request could carry."""
        if not (event.id.isascii() and event.id.isprintable()):
            raise ProtocolError(f"an event has the id {event.id!a:.80}")
        self.last_id = event.id or self.last_id
        if event.retry_ms is not None:
            self._retry_seconds = min(max(event.retry_ms, 0), STREAM_RETRY_MS_MAX) / 1000
        if event.data:
            self._failures = self._empty_ends = 0
        if event.type == "status" and event.data:
            status = event.json()
            self._final = isinstance(status, dict) and status.get("state") in JOB_ENDED

    def ended(self) -> float:
        """The server ended the connection: the seconds until the next one, unless it is over."""
        self._empty_ends += 1
        self.over = self._final or self._empty_ends > EMPTY_ENDS_MAX
        return 0.0 if self.over else self._wait(None)

    def broke(self, error: ApiError | TransportError) -> float:
        """Seconds until the next connection after a failure; raises it when patience ends."""
        self._failures += 1
        passes = isinstance(error, TransportError) or error.status in RETRY_STATUSES
        if not passes or self._failures >= self._policy.attempts:
            raise error
        return self._wait(error.retry_after if isinstance(error, ApiError) else None)

    def _wait(self, retry_after: float | None) -> float:
        asked = self._retry_seconds if retry_after is None else retry_after
        return min(self._policy.wait(max(1, self._failures), asked), self._policy.wait_max)


def read_event(event: ServerEvent) -> JobEvent | None:
    """A job's event, or None if this version does not know its kind. Raises ProtocolError."""
    if event.type not in EVENT_KINDS:
        return None
    try:
        return read_streamed(event.id, event.type, event.json())
    except ValidationError as error:
        first = problems_of(error.errors())[0]
        raise ProtocolError(f"event {event.id}: {first.pointer}: {first.detail}") from None
