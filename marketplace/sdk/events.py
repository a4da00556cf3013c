"""A job's event stream: one event, and how a stream goes on over many connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from marketplace.domain.life import JOB_ENDED
from marketplace.limits import EVENT_BYTES_MAX
from marketplace.sdk.errors import ApiError, ProtocolError, TransportError
from marketplace.sdk.http import RETRY_STATUSES, RetryPolicy
from marketplace.wire.jobs import JobEvent, read_streamed
from marketplace.wire.problems import problems_of
from settlement import strict_json

RETRY_MS_MAX = 60_000
EMPTY_ENDS_MAX = 3
KINDS = frozenset({"status", "log", "metric", "cost", "receipt"})


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
        self._failures = 0
        self._final = False
        self._empty_ends = 0

    def note(self, event: ServerEvent) -> None:
        """An event came."""
        self.last_id = event.id or self.last_id
        if event.retry_ms is not None:
            self._retry_seconds = min(max(event.retry_ms, 0), RETRY_MS_MAX) / 1000
        if event.data:
            self._failures = self._empty_ends = 0
        if event.type == "status" and event.data:
            status = event.json()
            state = status.get("state") if isinstance(status, dict) else None
            self._final = state in JOB_ENDED

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
    if event.type not in KINDS:
        return None
    try:
        return read_streamed(event.id, event.type, event.json())
    except ValidationError as error:
        first = problems_of(error.errors())[0]
        raise ProtocolError(f"event {event.id}: {first.pointer}: {first.detail}") from None
