"""Everything a running job says: its output, and JSON lines on the Unix socket it is given.

Lines: {"heartbeat": 1} · {"ready": true} · {"units": 3} · {"progress": "…"}, or several in one.
They show that the job lives, not that it is honest. What a job can send is bounded in size, rate
and connections; anything else on the socket is ignored.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from marketplace.agent.logs import JobLogs, LogFile
from marketplace.limits import (
    PROGRESS_CHARS_MAX,
    SOCKET_CONNECTIONS_MAX,
    SOCKET_LINE_BYTES_MAX,
    SOCKET_LINES_PER_SECOND_MAX,
    UNITS_PER_LINE_MAX,
)
from settlement.strict_json import JsonError, loads

SOCKET_NAME = "job.sock"
_DRAIN_S = 2.0
_TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class Signs:
    """What the job has said on its socket so far. `last_at` is Unix time in seconds."""

    ready: bool = False
    heartbeats: int = 0
    last_at: float | None = None
    units: int = 0
    ignored_lines: int = 0


class JobChannel:
    """Reads one job's output and socket on a thread of its own. `signs`: what it said so far."""

    def __init__(self, run_folder: Path, logs: JobLogs, units_max: int) -> None:
        self._logs = logs
        self._units_max = units_max
        self.signs = Signs()
        self._selector = selectors.DefaultSelector()
        self._connections: dict[int, _Connection] = {}
        self._pipes = 0
        self._stop_at: float | None = None
        self._unlimited = False
        self._budget = float(SOCKET_LINES_PER_SECOND_MAX)
        self._budget_at = time.monotonic()
        self._listener = _listen(run_folder)
        self._selector.register(self._listener, selectors.EVENT_READ, "listener")
        self._thread: threading.Thread | None = None

    def start(self, stdout_fd: int, stderr_fd: int) -> None:
        """Take over the job's output descriptors and begin to read."""
        for descriptor, log in ((stdout_fd, self._logs.stdout), (stderr_fd, self._logs.stderr)):
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ, log)
            self._pipes += 1
        self._thread = threading.Thread(target=self._run, name="job-channel", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """The job is over: read what is left, then close everything. A second call does nothing."""
        if self._stop_at is not None:
            return
        self._stop_at = time.monotonic() + _DRAIN_S
        if self._thread is not None:
            self._thread.join()
        for held in self._connections.values():
            self._forget(held.connection)
        for key in list(self._selector.get_map().values()):
            self._forget(key.fileobj)
        self._selector.close()
        self._logs.stdout.append(b"", final=True)
        self._logs.stderr.append(b"", final=True)

    def _run(self) -> None:
        while self._stop_at is None or (self._pipes and time.monotonic() < self._stop_at):
            self._handle(_TICK_S)
            self._resume()
        # The job is dead: what is still in the socket's buffers is bounded, so it is all taken.
        self._unlimited = True
        self._resume()
        while time.monotonic() < self._stop_at and self._handle(0):
            pass

    def _handle(self, timeout_s: float) -> bool:
        """Read whatever is there; whether anything was."""
        events = self._selector.select(timeout_s)
        for key, _ in events:
            if key.data == "listener":
                self._accept()
            elif isinstance(key.data, LogFile):
                self._read_output(key.fd, key.data)
            else:
                self._read_lines(key.data)
        return bool(events)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if len(self._connections) >= SOCKET_CONNECTIONS_MAX:
            connection.close()
            return
        connection.setblocking(False)
        held = _Connection(connection)
        self._connections[connection.fileno()] = held
        self._selector.register(connection, selectors.EVENT_READ, held)

    def _read_output(self, descriptor: int, log: LogFile) -> None:
        try:
            data = os.read(descriptor, 65536)
        except BlockingIOError:
            return
        if data:
            log.append(data)
        else:
            self._pipes -= 1
            self._forget(descriptor)

    def _read_lines(self, held: _Connection) -> None:
        try:
            data = held.connection.recv(SOCKET_LINE_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        held.buffer += data
        held.ended = not data
        self._take_lines(held)
        if not held.over and b"\n" in held.buffer:
            self._selector.unregister(held.connection)  # too fast: read on when time allows
            held.paused = True

    def _take_lines(self, held: _Connection) -> None:
        now = time.monotonic()
        gained = (now - self._budget_at) * SOCKET_LINES_PER_SECOND_MAX
        self._budget = min(float(SOCKET_LINES_PER_SECOND_MAX), self._budget + gained)
        self._budget_at = now
        while b"\n" in held.buffer and (self._budget >= 1 or self._unlimited):
            self._budget -= 1
            line, _, rest = held.buffer.partition(b"\n")
            held.buffer = bytearray(rest)
            self._take(bytes(line))
        too_long = len(held.buffer) > SOCKET_LINE_BYTES_MAX and b"\n" not in held.buffer
        if too_long or (held.ended and b"\n" not in held.buffer):
            held.over = True
            self._connections.pop(held.connection.fileno(), None)
            self._forget(held.connection)

    def _resume(self) -> None:
        for held in list(self._connections.values()):
            if held.paused:
                self._take_lines(held)
                if not held.over and b"\n" not in held.buffer:
                    held.paused = False
                    self._selector.register(held.connection, selectors.EVENT_READ, held)

    def _take(self, line: bytes) -> None:
        before = self.signs
        message = _message_of(line)
        if message is None:
            self.signs = replace(before, ignored_lines=before.ignored_lines + 1)
            return
        progress = message.get("progress")
        if isinstance(progress, str) and progress:
            text = " ".join(progress[:PROGRESS_CHARS_MAX].split())
            self._logs.agent.append(f"progress: {text}\n".encode(errors="replace"))
        units = message.get("units", 0)
        counted = isinstance(units, int) and not isinstance(units, bool)
        added = units if counted and 0 <= units <= UNITS_PER_LINE_MAX else 0
        self.signs = replace(
            before,
            ready=before.ready or message.get("ready") is True,
            heartbeats=before.heartbeats + 1,  # every well-formed line is a sign of life
            last_at=time.time(),
            units=min(self._units_max, before.units + added),
        )

    def _forget(self, source: Any) -> None:
        with suppress(KeyError, ValueError):  # a paused connection is not registered
            self._selector.unregister(source)
        if isinstance(source, int):
            os.close(source)
        else:
            source.close()


class _Connection:
    """One connection of the job, with the part of a line that has come so far."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.buffer = bytearray()
        self.paused = False
        self.ended = False
        self.over = False


def _message_of(line: bytes) -> dict[str, Any] | None:
    try:
        message = loads(line, SOCKET_LINE_BYTES_MAX)
    except JsonError:
        return None
    return message if isinstance(message, dict) else None


def _listen(folder: Path) -> socket.socket:
    """A socket every user can connect to; only the job sees the folder it is in."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder_fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        # A socket's path is limited to 108 bytes; a state folder's is not.
        listener.bind(f"/proc/self/fd/{folder_fd}/{SOCKET_NAME}")
    finally:
        os.close(folder_fd)
    (folder / SOCKET_NAME).chmod(0o666)
    listener.setblocking(False)
    listener.listen(SOCKET_CONNECTIONS_MAX)
    return listener
