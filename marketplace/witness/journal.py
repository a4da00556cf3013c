"""What a witness has signed and seen, on disk before any signature leaves the process.

One SQLite file per witness key. A value is committed (synchronous=FULL) before it is signed, so a
witness killed at any point never signs a second value for one (lease, sequence).
"""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
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
# A mark only rises, each amount by itself.
RAISE = """
INSERT INTO mark VALUES (?,?,?,?,?) ON CONFLICT (lease_no) DO UPDATE SET
    sequence = max(sequence, excluded.sequence), ms = max(ms, excluded.ms),
    egress_mib = max(egress_mib, excluded.egress_mib), units = max(units, excluded.units)
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

        Raises WitnessJournalConflict if that sequence has another value, if the mark is past it, or
        if the lease's Close is signed.
        """
        number = lease_no.hex()
        place = (lease_no.hex(), mark.sequence)
        with self._write() as db:
            query = "SELECT message FROM voucher WHERE lease_no=? AND sequence=?"
            if self._stands(db.execute(query, place), message):
                return
            held = self._mark(number)
            if mark.sequence <= held.sequence or not mark.covers(held):
                raise WitnessJournalConflict(f"the mark stands at sequence {held.sequence}")
            if db.execute("SELECT 1 FROM closing WHERE lease_no=?", (number,)).fetchone():
                raise WitnessJournalConflict("the Close of this lease is signed")
            db.execute("INSERT INTO voucher VALUES (?,?,?)", (*place, _canonical(message)))
            db.execute(RAISE, (number, *astuple(mark)))

    def record_close(self, lease_no: bytes, mark: Mark, message: dict[str, Any]) -> None:
        """Record a Close before it is signed. Raises WitnessJournalConflict if another is there."""
        number = lease_no.hex()
        with self._write() as db:
            query = "SELECT message FROM closing WHERE lease_no=?"
            if self._stands(db.execute(query, (number,)), message):
                return
            held = self._mark(number)
            if not mark.covers(held):
                raise WitnessJournalConflict("the Close is below what was countersigned")
            db.execute("INSERT INTO closing VALUES (?,?)", (number, _canonical(message)))
            db.execute(RAISE, (number, *astuple(replace(mark, sequence=held.sequence))))

    def is_done(self, lease_no: bytes) -> bool:
        """Whether a Close is recorded that does not let the bid open again."""
        query = "SELECT 1 FROM closing WHERE lease_no=? AND NOT json_extract(message, '$.again')"
        with self._lock:
            return self._db.execute(query, (lease_no.hex(),)).fetchone() is not None

    def adopt(self, lease_no: bytes, mark: Mark) -> None:
        """Raise the mark to an own voucher that this file, being an old copy, has forgotten."""
        with self._write() as db:
            db.execute(RAISE, (lease_no.hex(), *astuple(mark)))

    def checkpoint(self, lease_no: bytes) -> Checkpoint | None:
        """The watch as last saved."""
        query = "SELECT elapsed_ms, alive_ms, heartbeats, at_unix_ms FROM watch WHERE lease_no=?"
        with self._lock:
            row = self._db.execute(query, (lease_no.hex(),)).fetchone()
        return None if row is None else Checkpoint(*row)

    def save(self, lease_no: bytes, point: Checkpoint) -> None:
        """Save the watch."""
        values = (lease_no.hex(), *astuple(point))
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO watch VALUES (?,?,?,?,?)", values)

    def _mark(self, number: str) -> Mark:
        query = "SELECT sequence, ms, egress_mib, units FROM mark WHERE lease_no=?"
        row = self._db.execute(query, (number,)).fetchone()
        return Mark() if row is None else Mark(*row)

    def _stands(self, found: sqlite3.Cursor, message: dict[str, Any]) -> bool:
        """Whether this very message is down. Raises WitnessJournalConflict if another one is."""
        row = found.fetchone()
        if row is not None and row[0] != _canonical(message):
            raise WitnessJournalConflict("another value is down for this lease or sequence")
        return row is not None

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction; the connection's own context commits it or rolls it back."""
        with self._lock, self._db as db:
            db.execute("BEGIN IMMEDIATE")
            yield db


def _canonical(message: dict[str, Any]) -> str:
    return json.dumps(message, sort_keys=True, separators=(",", ":"))
