"""Everything a running job says: its output, and JSON lines on the Unix socket it is given.

Lines: {"heartbeat": 1} · {"ready": true} · {"units": 3} · {"progress": "…"}, or several in one.
They show that the job lives, not that it is honest. What a job can send is bounded in size, rate
and connections; anything else on the socket is ignored.
"""

import codecs
import os
import selectors
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from marketplace import limits
from settlement.strict_json import JsonError, loads

SOCKET_NAME = "job.sock"
_DRAIN_S = 2.0
_TICK_S = 0.1
_TRUNCATED = f"\n[output above {limits.LOG_BYTES_MAX // limits.MIB} MiB is not kept]\n".encode()


class LogFile:
    """One stream. What is written is valid UTF-8, whatever the job wrote, so offsets are exact."""

    def __init__(self, path: Path, bytes_max: int = limits.LOG_BYTES_MAX) -> None:
        self._file = path.open("a+b")
        self._bytes_max = bytes_max
        self._size = os.fstat(self._file.fileno()).st_size
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lock = threading.Lock()
        self._full = self._size >= bytes_max

    def close(self) -> None:
        self._file.close()

    def append(self, data: bytes, final: bool = False) -> None:
        """Take output as it comes; beyond the limit it is dropped, and the log says so once."""
        # NUL is valid UTF-8, but databases refuse it in text.
        text = self._decoder.decode(data, final).replace("\0", "\N{REPLACEMENT CHARACTER}")
        encoded = text.encode()
        with self._lock:
            if self._full or not encoded:
                return
            if self._size + len(encoded) > self._bytes_max:
                room = encoded[: self._bytes_max - self._size]
                encoded = room.decode(errors="ignore").encode() + _TRUNCATED
                self._full = True
            self._file.write(encoded)
            self._file.flush()
            self._size += len(encoded)

    def chunk(self, offset: int) -> str:
        """The next text from `offset` on, at most LOG_CHUNK_BYTES; empty if there is none."""
        with self._lock:
            raw = os.pread(self._file.fileno(), limits.LOG_CHUNK_BYTES, offset)
        return raw.decode(errors="ignore")  # may end within a character: the rest comes next time


class JobLogs:
    """A job's streams: what it wrote, and what the agent has to say about it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.stdout = LogFile(folder / "stdout")
        self.stderr = LogFile(folder / "stderr")
        self.agent = LogFile(folder / "agent")
        # Every stream under the name the server knows it by.
        self.streams = (("stdout", self.stdout), ("stderr", self.stderr), ("agent", self.agent))

    def say(self, text: str) -> None:
        self.agent.append(f"{text}\n".encode(errors="replace"))

    def close(self) -> None:
        for _, log in self.streams:
            log.close()


@dataclass(frozen=True, slots=True)
class Signs:
    """What the job has said on its socket so far. `last_at` is Unix time in seconds."""

    ready: bool = False
    heartbeats: int = 0
    last_at: float | None = None
    units: int = 0
    ignored_lines: int = 0


@dataclass(slots=True, eq=False)
class _Connection:
    connection: socket.socket
    buffer: bytes = b""
    paused: bool = False
    ended: bool = False

    @property
    def has_line(self) -> bool:
        return b"\n" in self.buffer


class JobChannel:
    """Reads one job's output and socket on a thread of its own. `signs`: what it said so far."""

    def __init__(self, run_folder: Path, logs: JobLogs, units_max: int) -> None:
        self._logs = logs
        self._units_max = units_max
        self.signs = Signs()
        self._selector = selectors.DefaultSelector()
        self._connections: set[_Connection] = set()
        self._pipes = 0
        self._stop_at: float | None = None
        self._unlimited = False
        self._budget = float(limits.SOCKET_LINES_PER_SECOND_MAX)
        self._budget_at = time.monotonic()
        self._listener = _listen(run_folder)
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._thread: threading.Thread | None = None

    def start(self, stdout_fd: int, stderr_fd: int) -> None:
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
        for held in self._connections:
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
        """Read whatever is there; return whether anything was."""
        events = self._selector.select(timeout_s)
        for key, _ in events:
            with suppress(BlockingIOError):
                if key.data is None:
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
        if len(self._connections) >= limits.SOCKET_CONNECTIONS_MAX:
            connection.close()
            return
        connection.setblocking(False)
        held = _Connection(connection)
        self._connections.add(held)
        self._selector.register(connection, selectors.EVENT_READ, held)

    def _read_output(self, descriptor: int, log: LogFile) -> None:
        if data := os.read(descriptor, 65536):
            log.append(data)
        else:
            self._pipes -= 1
            self._forget(descriptor)

    def _read_lines(self, held: _Connection) -> None:
        try:
            data = held.connection.recv(limits.SOCKET_LINE_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        held.buffer += data
        held.ended = not data
        self._take_lines(held)
        if held.has_line:
            self._selector.unregister(held.connection)  # too fast: read on when time allows
            held.paused = True

    def _take_lines(self, held: _Connection) -> None:
        """Take as many whole lines as the rate allows; forget the connection if it is over."""
        now = time.monotonic()
        rate = limits.SOCKET_LINES_PER_SECOND_MAX
        self._budget = min(rate, self._budget + (now - self._budget_at) * rate)
        self._budget_at = now
        while held.has_line and (self._budget >= 1 or self._unlimited):
            self._budget -= 1
            line, _, held.buffer = held.buffer.partition(b"\n")
            self._take(line)
        too_long = len(held.buffer) > limits.SOCKET_LINE_BYTES_MAX
        if (too_long or held.ended) and not held.has_line:
            self._connections.discard(held)
            self._forget(held.connection)

    def _resume(self) -> None:
        for held in [held for held in self._connections if held.paused]:
            self._take_lines(held)
            if held in self._connections and not held.has_line:
                held.paused = False
                self._selector.register(held.connection, selectors.EVENT_READ, held)

    def _take(self, line: bytes) -> None:
        before = self.signs
        try:
            message = loads(line, limits.SOCKET_LINE_BYTES_MAX)
        except JsonError:
            message = None
        if not isinstance(message, dict):
            self.signs = replace(before, ignored_lines=before.ignored_lines + 1)
            return
        progress = message.get("progress")
        if isinstance(progress, str) and progress:
            self._logs.say(f"progress: {' '.join(progress[: limits.PROGRESS_CHARS_MAX].split())}")
        units = message.get("units", 0)
        counted = isinstance(units, int) and not isinstance(units, bool)
        added = units if counted and 0 <= units <= limits.UNITS_PER_LINE_MAX else 0
        self.signs = replace(  # every well-formed line is a sign of life
            before, ready=before.ready or message.get("ready") is True, last_at=time.time(),
            heartbeats=before.heartbeats + 1, units=min(self._units_max, before.units + added),
        )  # fmt: skip

    def _forget(self, source: Any) -> None:
        with suppress(KeyError, ValueError):  # a paused connection is not registered
            self._selector.unregister(source)
        if isinstance(source, int):
            os.close(source)
        else:
            source.close()


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
    listener.listen(limits.SOCKET_CONNECTIONS_MAX)
    return listener
