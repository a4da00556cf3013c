"""Server-sent events: a parser that takes bytes in any pieces, and the state of a resumable stream.

Source: WHATWG HTML, section "Server-sent events".
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from marketplace.sdk.errors import CoulombError, ProtocolError, TransportError
from marketplace.sdk.flow import Request, Response
from marketplace.sdk.purchases import JOB_FINAL
from marketplace.sdk.transfer import RetryPolicy
from settlement.strict_json import JsonError, loads

EVENT_BYTES_MAX = 1024 * 1024
RETRY_MS_MAX = 60_000
EMPTY_ENDS_MAX = 3


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event; `id` is the last id seen, which resumes the stream after this event."""

    type: str
    data: str
    id: str = ""

    def json(self) -> Any:
        """The data as JSON. Raises ProtocolError if it is not sound JSON."""
        try:
            return loads(self.data, EVENT_BYTES_MAX)
        except JsonError as error:
            where = f"event {self.id or self.type}"
            raise ProtocolError(f"{where}: the data is not JSON: {error}") from None


class Parser:
    """Turns a byte stream into events. Raises ProtocolError above 1 MiB per event."""

    def __init__(self) -> None:
        self.last_id = ""
        self.retry_ms: int | None = None
        self._buffer = b""
        self._data: list[str] = []
        self._size = 0
        self._type = ""
        self._pending_id = ""
        self._begun = False
        self._after_cr = False

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        """The events that end within what was fed so far."""
        self._buffer += chunk
        if not self._begun and len(self._buffer) >= 3:
            self._buffer = self._buffer.removeprefix(b"\xef\xbb\xbf")
            self._begun = True
        for line in self._lines():
            event = self._line(line.decode("utf-8", "replace"))
            if event is not None:
                yield event
        if len(self._buffer) + self._size > EVENT_BYTES_MAX:
            raise ProtocolError(f"an event is longer than {EVENT_BYTES_MAX} bytes")

    def drop_partial(self) -> None:
        """Forget an event whose end never came: the connection broke."""
        self._buffer, self._data, self._size, self._type = b"", [], 0, ""
        self._pending_id, self._begun, self._after_cr = self.last_id, False, False

    def _lines(self) -> Iterator[bytes]:
        if self._after_cr and self._buffer:
            self._buffer = self._buffer.removeprefix(b"\n")
            self._after_cr = False
        while self._begun or b"\n" in self._buffer or b"\r" in self._buffer:
            ends = [at for at in (self._buffer.find(b"\n"), self._buffer.find(b"\r")) if at >= 0]
            if not ends:
                return
            end = min(ends)
            line, mark = self._buffer[:end], self._buffer[end : end + 1]
            self._buffer = self._buffer[end + 1 :]
            if mark == b"\r":
                if self._buffer:
                    self._buffer = self._buffer.removeprefix(b"\n")
                else:
                    self._after_cr = True
            yield line

    def _line(self, line: str) -> ServerEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
            self._size += len(value) + 1
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._pending_id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_ms = min(int(value), RETRY_MS_MAX)
        return None

    def _dispatch(self) -> ServerEvent | None:
        self.last_id = self._pending_id
        data, kind = self._data, self._type
        self._data, self._size, self._type = [], 0, ""
        return ServerEvent(kind or "message", "\n".join(data), self.last_id) if data else None


class EventSource:
    """A job's events over as many connections as it takes; a shell moves the bytes.

    The stream is over when the server ends it after the job's final status, or over and
    over without an event: there was nothing to come after the id it was resumed from.
    """

    def __init__(
        self,
        path: str,
        policy: RetryPolicy,
        last_id: str = "",
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.over = False
        self._path = path
        self._policy = policy
        self._draw = draw
        self._parser = Parser()
        self._parser.last_id = self._parser._pending_id = last_id
        self._failures = 0
        self._final = False
        self._empty_ends = 0

    def request(self) -> Request:
        """The request that opens the stream, or reopens it after the last event seen."""
        headers: dict[str, str] = {"Accept": "text/event-stream"}
        if self._parser.last_id:
            headers["Last-Event-ID"] = self._parser.last_id
        return Request("GET", self._path, headers=headers)

    def opened(self, headers: Mapping[str, str]) -> None:
        """Check that what answered is an event stream. Raises ProtocolError."""
        kind = headers.get("content-type", "")
        if kind.partition(";")[0].strip() != "text/event-stream":
            raise ProtocolError(f"{self._path}: expected text/event-stream, got {kind!r}")

    def feed(self, chunk: bytes) -> Iterator[ServerEvent]:
        """The events that ended with this piece."""
        for event in self._parser.feed(chunk):
            self._failures = self._empty_ends = 0
            if event.type == "status":
                status = event.json()
                state = status.get("state") if isinstance(status, dict) else None
                self._final = state in JOB_FINAL
            yield event

    def ended(self) -> float:
        """The server ended the stream: over if the job is, else seconds until the next try."""
        self._parser.drop_partial()
        self._empty_ends += 1
        self.over = self._final or self._empty_ends > EMPTY_ENDS_MAX
        return 0.0 if self.over else self._wait(None)

    def broke(self, error: CoulombError, response: Response | None = None) -> float:
        """Seconds until the next try after a failure; raises it when patience is over."""
        self._parser.drop_partial()
        self._failures += 1
        retryable = isinstance(error, TransportError) or (
            response is not None and response.status in (429, 502, 503, 504)
        )
        if not retryable or self._failures >= self._policy.attempts:
            raise error
        return self._wait(error)

    def _wait(self, error: CoulombError | None) -> float:
        retry_after = getattr(getattr(error, "problem", None), "retry_after", None)
        if retry_after is None and self._parser.retry_ms is not None:
            retry_after = self._parser.retry_ms / 1000
        wait = self._policy.wait(max(1, self._failures), retry_after, self._draw)
        return min(wait, self._policy.wait_max)
