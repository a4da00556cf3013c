"""A job's output on its way to the server: a bounded file per stream, sent by byte offset."""

from __future__ import annotations

import codecs
import os
import threading
from pathlib import Path

from marketplace.limits import LOG_BYTES_MAX, LOG_CHUNK_BYTES, MIB

_TRUNCATED = f"\n[output above {LOG_BYTES_MAX // MIB} MiB is not kept]\n".encode()


class LogFile:
    """One stream. What is written is valid UTF-8, whatever the job wrote, so offsets are exact."""

    def __init__(self, path: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
        self._file = path.open("a+b")
        self._bytes_max = bytes_max
        self._size = os.fstat(self._file.fileno()).st_size
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lock = threading.Lock()
        self._full = self._size >= bytes_max

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
            raw = os.pread(self._file.fileno(), LOG_CHUNK_BYTES, offset)
        return raw.decode(errors="ignore")  # may end within a character: the rest comes next time

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class JobLogs:
    """A job's streams: what it wrote, and what the agent has to say about it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.stdout = LogFile(folder / "stdout")
        self.stderr = LogFile(folder / "stderr")
        self.agent = LogFile(folder / "agent")

    def streams(self) -> tuple[tuple[str, LogFile], ...]:
        """Every stream under the name the server knows it by."""
        return (("stdout", self.stdout), ("stderr", self.stderr), ("agent", self.agent))

    def say(self, text: str) -> None:
        """Add a line of the agent's own."""
        self.agent.append(f"{text}\n".encode(errors="replace"))

    def close(self) -> None:
        """Close the files."""
        for _, log in self.streams():
            log.close()
