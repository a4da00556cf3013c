"""What a witness has signed and seen, on disk before any signature leaves the process.

One SQLite file per witness key. A value is committed (synchronous=FULL) before it is signed, so a
witness killed at any point never signs a second value for one (lease, sequence).
"""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marketplace.witness.policy import Mark

SCHEMA = """
CREATE TABLE IF NOT EXISTS mark (
    lease_no TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL,
    ms INTEGER NOT NULL,
    egress_mib INTEGER NOT NULL,
    units INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS voucher (
    lease_no TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (lease_no, sequence)
);
CREATE TABLE IF NOT EXISTS closing (lease_no TEXT PRIMARY KEY, message TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS watch (
    lease_no TEXT PRIMARY KEY,
    elapsed_ms INTEGER NOT NULL,
    alive_ms INTEGER NOT NULL,
    heartbeats INTEGER NOT NULL,
    at_unix_ms INTEGER NOT NULL
);
"""


class WitnessJournalConflict(Exception):
    """Another value is already down for this lease and sequence; it is never signed twice."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A watch as it was when last written; `at_unix_ms` is wall time."""

    elapsed_ms: int
    alive_ms: int
    heartbeats: int
    at_unix_ms: int


class WitnessJournal:
    """The durable memory of one witness key. Safe for several threads and processes."""

    def __init__(self, path: Path | None) -> None:
        """Open or create the file, readable by its owner only; None keeps all in memory."""
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(
            path or ":memory:", isolation_level=None, check_same_thread=False, timeout=10
        )
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def mark(self, lease_no: bytes) -> Mark:
        """The high-water mark of a lease."""
        with self._lock:
            return self._mark(lease_no.hex())

    def record(self, lease_no: bytes, mark: Mark, message: dict[str, Any]) -> None:
        """Put down a voucher before it is signed. Recording the same value again changes nothing.

        Raises WitnessJournalConflict where another value stands at that sequence, where the mark is
        already past it, or where the lease's Close is signed.
        """
        number, text = lease_no.hex(), _canonical(message)
        with self._write() as db:
            row = db.execute(
                "SELECT message FROM voucher WHERE lease_no=? AND sequence=?",
                (number, mark.sequence),
            ).fetchone()
            if row is not None:
                if row[0] != text:
                    raise WitnessJournalConflict(
                        f"sequence {mark.sequence} stands for another value"
                    )
                return
            held = self._mark(number)
            if mark.sequence <= held.sequence or not _covers(mark, held):
                raise WitnessJournalConflict(f"the mark stands at sequence {held.sequence}")
            if db.execute("SELECT 1 FROM closing WHERE lease_no=?", (number,)).fetchone():
                raise WitnessJournalConflict("the Close of this lease is signed")
            db.execute("INSERT INTO voucher VALUES (?,?,?)", (number, mark.sequence, text))
            self._raise_to(number, mark)

    def record_close(self, lease_no: bytes, mark: Mark, message: dict[str, Any]) -> None:
        """Record a Close before it is signed. Raises WitnessJournalConflict if another is there."""
        number, text = lease_no.hex(), _canonical(message)
        with self._write() as db:
            row = db.execute("SELECT message FROM closing WHERE lease_no=?", (number,)).fetchone()
            if row is not None:
                if row[0] != text:
                    raise WitnessJournalConflict("another Close of this lease is signed")
                return
            held = self._mark(number)
            if not _covers(mark, held):
                raise WitnessJournalConflict("the Close is below what was countersigned")
            db.execute("INSERT INTO closing VALUES (?,?)", (number, text))
            self._raise_to(number, Mark(held.sequence, mark.ms, mark.egress_mib, mark.units))

    def adopt(self, lease_no: bytes, mark: Mark) -> None:
        """Raise the mark to an own voucher this file has forgotten, being an old copy."""
        with self._write():
            held = self._mark(lease_no.hex())
            self._raise_to(
                lease_no.hex(),
                Mark(
                    max(mark.sequence, held.sequence),
                    max(mark.ms, held.ms),
                    max(mark.egress_mib, held.egress_mib),
                    max(mark.units, held.units),
                ),
            )

    def checkpoint(self, lease_no: bytes) -> Checkpoint | None:
        """The watch as last saved."""
        with self._lock:
            row = self._db.execute(
                "SELECT elapsed_ms, alive_ms, heartbeats, at_unix_ms FROM watch WHERE lease_no=?",
                (lease_no.hex(),),
            ).fetchone()
        return None if row is None else Checkpoint(*row)

    def save(self, lease_no: bytes, point: Checkpoint) -> None:
        """Save the watch."""
        values = (point.elapsed_ms, point.alive_ms, point.heartbeats, point.at_unix_ms)
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO watch VALUES (?,?,?,?,?)", (lease_no.hex(), *values))

    def _mark(self, number: str) -> Mark:
        row = self._db.execute(
            "SELECT sequence, ms, egress_mib, units FROM mark WHERE lease_no=?", (number,)
        ).fetchone()
        return Mark() if row is None else Mark(*row)

    def _raise_to(self, number: str, mark: Mark) -> None:
        values = (number, mark.sequence, mark.ms, mark.egress_mib, mark.units)
        self._db.execute("INSERT OR REPLACE INTO mark VALUES (?,?,?,?,?)", values)

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction; the connection's own context commits it or rolls it back."""
        with self._lock, self._db as db:
            db.execute("BEGIN IMMEDIATE")
            yield db


def _covers(later: Mark, earlier: Mark) -> bool:
    return (
        later.ms >= earlier.ms
        and later.egress_mib >= earlier.egress_mib
        and later.units >= earlier.units
    )


def _canonical(message: dict[str, Any]) -> str:
    return json.dumps(message, sort_keys=True, separators=(",", ":"))
