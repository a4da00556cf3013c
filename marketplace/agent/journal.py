"""What the node must not forget: readings, attestations, and how each lease ended.

SQLite in WAL mode with synchronous=FULL: a commit that returned survives a crash. A message is
committed here before it is signed, and its signature before it is sent, so a restarted agent can
only repeat itself. For one (lease, sequence), and for a lease's Close, there is one value for good.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from marketplace.agent.errors import JournalConflict, JournalError
from settlement.attestation import Close, UsageAttestation, Voucher
from settlement.eip712 import Domain

GENESIS = bytes(32)  # the head of an empty chain of readings

_SCHEMA = """
CREATE TABLE IF NOT EXISTS leases (
    lease_id TEXT PRIMARY KEY, job_id TEXT NOT NULL, buyer TEXT NOT NULL, provider TEXT NOT NULL,
    lease_no BLOB NOT NULL, chain_id INTEGER NOT NULL, contract TEXT NOT NULL,
    phase TEXT NOT NULL CHECK (phase IN ('running', 'ended', 'reported', 'done')),
    outputs TEXT NOT NULL, witness TEXT NOT NULL, metered INTEGER NOT NULL,
    process TEXT, ending TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS readings (
    lease_id TEXT NOT NULL REFERENCES leases, number INTEGER NOT NULL,
    row TEXT NOT NULL, head BLOB NOT NULL, PRIMARY KEY (lease_id, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attestations (
    lease_id TEXT NOT NULL REFERENCES leases, sequence INTEGER NOT NULL,
    message TEXT NOT NULL, signature BLOB,
    state TEXT NOT NULL CHECK (state IN ('journaled', 'signed', 'sent', 'refused')), code TEXT,
    PRIMARY KEY (lease_id, sequence)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS closes (
    lease_id TEXT PRIMARY KEY REFERENCES leases, message TEXT NOT NULL, signature BLOB
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS vouchers (
    lease_id TEXT PRIMARY KEY REFERENCES leases, sequence INTEGER NOT NULL,
    message TEXT NOT NULL, signature BLOB NOT NULL
) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class LeaseEntry:
    """A lease this node has worked on, and in which contract's domain it signs for it.

    `outputs` are the paths under /out that the job's buyer wants back. `witness` signs its
    vouchers, which state more than time where it is `metered`.
    """

    lease_id: str
    job_id: str
    buyer: str
    provider: str
    lease_no: bytes
    domain: Domain
    witness: str
    metered: bool
    outputs: tuple[str, ...] = ()
    phase: str = "running"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended: what `finish` reports beside usage. `outputs` is a blob's SHA-256."""

    outcome: str
    reason: str
    exit_code: int | None = None
    outputs: str | None = None
    stop: bool = False  # whether the meter also signs a Stop, because no witness may be there


@dataclass(frozen=True, slots=True)
class AttestationEntry:
    """A journaled attestation; `signature` is None between the two commits around signing."""

    message: UsageAttestation
    signature: bytes | None
    state: str


class Journal:
    """The node's memory. Safe to use from several threads; one process at a time."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise JournalError(f"{path}: {error}") from error
        path.chmod(0o600)

    def close(self) -> None:
        """Close the file; everything committed stays."""
        with self._lock:
            self._db.close()

    # -- leases ----------------------------------------------------------------------------------

    def begin(self, entry: LeaseEntry) -> None:
        """Take up a lease, once for good. Raises JournalConflict if this node already did."""
        values = (
            entry.lease_id, entry.job_id, entry.buyer, entry.provider, entry.lease_no,
            entry.domain.chain_id, entry.domain.verifying_contract, entry.phase,
            json.dumps(entry.outputs), entry.witness, entry.metered,
        )  # fmt: skip
        with self._write() as db:
            try:
                db.execute("INSERT INTO leases VALUES (?,?,?,?,?,?,?,?,?,?,?,NULL,NULL)", values)
            except sqlite3.IntegrityError:
                raise JournalConflict(f"{entry.lease_id} was already taken up here") from None

    def lease(self, lease_id: str) -> LeaseEntry | None:
        """The lease, if this node ever took it up."""
        rows = self._read("SELECT * FROM leases WHERE lease_id = ?", lease_id)
        return _lease_of(rows[0]) if rows else None

    def open_leases(self) -> list[LeaseEntry]:
        """Leases that still have something to do."""
        return [
            _lease_of(row)
            for row in self._read("SELECT * FROM leases WHERE phase <> 'done' ORDER BY rowid")
        ]

    def note_process(self, lease_id: str, record: Mapping[str, Any]) -> None:
        """Remember what the job runs as, so that a successor can end it."""
        with self._write() as db:
            db.execute(
                "UPDATE leases SET process = ? WHERE lease_id = ?", (json.dumps(record), lease_id)
            )

    def process(self, lease_id: str) -> dict[str, Any] | None:
        """What `note_process` was told."""
        rows = self._read("SELECT process FROM leases WHERE lease_id = ?", lease_id)
        return dict(json.loads(rows[0][0])) if rows and rows[0][0] else None

    def end(self, lease_id: str, ending: Ending) -> Ending:
        """Decide how a lease ended; the first decision stands and is returned."""
        with self._write() as db:
            row = db.execute("SELECT ending FROM leases WHERE lease_id = ?", (lease_id,)).fetchone()
            if row is not None and row[0]:
                return Ending(**json.loads(row[0]))
            db.execute(
                "UPDATE leases SET ending = ?, phase = 'ended' WHERE lease_id = ?",
                (json.dumps(asdict(ending)), lease_id),
            )
        return ending

    def amend_ending(self, lease_id: str, ending: Ending) -> None:
        """Replace an ending that was not reported yet, once its outputs are stored."""
        with self._write() as db:
            db.execute(
                "UPDATE leases SET ending = ? WHERE lease_id = ? AND phase = 'ended'",
                (json.dumps(asdict(ending)), lease_id),
            )

    def ending(self, lease_id: str) -> Ending | None:
        """How the lease ended, once that is decided."""
        rows = self._read("SELECT ending FROM leases WHERE lease_id = ?", lease_id)
        return Ending(**json.loads(rows[0][0])) if rows and rows[0][0] else None

    def set_phase(self, lease_id: str, phase: str) -> None:
        """Go on to `reported` or `done`."""
        with self._write() as db:
            db.execute("UPDATE leases SET phase = ? WHERE lease_id = ?", (phase, lease_id))

    # -- readings --------------------------------------------------------------------------------

    def add_reading(self, lease_id: str, row: Mapping[str, Any]) -> bytes:
        """Append a raw reading; the new head of the lease's hash chain, 32 bytes.

        head = SHA-256(previous head ‖ canonical JSON of the row), starting from 32 zero bytes.
        """
        text = json.dumps(row, sort_keys=True, separators=(",", ":"))
        with self._write() as db:
            last = db.execute(
                "SELECT number, head FROM readings WHERE lease_id = ? ORDER BY number DESC LIMIT 1",
                (lease_id,),
            ).fetchone()
            number, head = last or (-1, GENESIS)
            head = chain(bytes(head), text)
            db.execute("INSERT INTO readings VALUES (?,?,?,?)", (lease_id, number + 1, text, head))
        return head

    def readings(self, lease_id: str) -> list[str]:
        """Raw readings of a lease in order, as the JSON texts that were hashed."""
        query = "SELECT row FROM readings WHERE lease_id = ? ORDER BY number"
        return [row[0] for row in self._read(query, lease_id)]

    # -- attestations ----------------------------------------------------------------------------

    def propose(self, lease_id: str, attestation: UsageAttestation) -> None:
        """Make an attestation's value durable before it is signed.

        Raises JournalConflict where the sequence is not the next one, has another value, or usage
        falls.
        """
        text = json.dumps(attestation.to_message(), sort_keys=True)
        with self._write() as db:
            last = self.last(lease_id)
            if last is not None and last.message == attestation:
                return
            expected = 0 if last is None else last.message.sequence + 1
            if attestation.sequence != expected:
                raise JournalConflict(
                    f"{lease_id}: sequence {attestation.sequence} where {expected} is next"
                )
            if last is not None and not attestation.usage().covers(last.message.usage()):
                raise JournalConflict(f"{lease_id}: usage falls at sequence {expected}")
            db.execute(
                "INSERT INTO attestations VALUES (?,?,?,NULL,'journaled',NULL)",
                (lease_id, attestation.sequence, text),
            )

    def adopt(self, lease_id: str, attestation: UsageAttestation, signature: bytes) -> None:
        """Take over what this node's key signed and the server kept, but this journal lost.

        Raises JournalConflict where the journal has another value for that sequence.
        """
        text = json.dumps(attestation.to_message(), sort_keys=True)
        with self._write() as db:
            row = db.execute(
                "SELECT message FROM attestations WHERE lease_id = ? AND sequence = ?",
                (lease_id, attestation.sequence),
            ).fetchone()
            if row is None:
                values = (lease_id, attestation.sequence, text, signature)
                db.execute("INSERT INTO attestations VALUES (?,?,?,?,'sent',NULL)", values)
            elif row[0] != text:
                raise JournalConflict(
                    f"{lease_id}: the server holds another signed value for {attestation.sequence}"
                )

    def keep_signature(self, lease_id: str, sequence: int, signature: bytes) -> None:
        """Store the bytes that will be sent, and sent again, unchanged."""
        with self._write() as db:
            db.execute(
                "UPDATE attestations SET signature = ?, state = 'signed'"
                " WHERE lease_id = ? AND sequence = ? AND state = 'journaled'",
                (signature, lease_id, sequence),
            )

    def note_answer(self, lease_id: str, sequence: int, state: str, code: str | None) -> None:
        """Remember what the server said to an attestation: `sent` or `refused`."""
        with self._write() as db:
            db.execute(
                "UPDATE attestations SET state = ?, code = ? WHERE lease_id = ? AND sequence = ?",
                (state, code, lease_id, sequence),
            )

    def last(self, lease_id: str) -> AttestationEntry | None:
        """The attestation with the highest sequence: the high-water mark."""
        rows = self._read(
            "SELECT message, signature, state FROM attestations"
            " WHERE lease_id = ? ORDER BY sequence DESC LIMIT 1",
            lease_id,
        )
        return _attestation_of(rows[0]) if rows else None

    def unsent(self, lease_id: str) -> list[AttestationEntry]:
        """Signed attestations the server has not answered, in order."""
        rows = self._read(
            "SELECT message, signature, state FROM attestations"
            " WHERE lease_id = ? AND state = 'signed' ORDER BY sequence",
            lease_id,
        )
        return [_attestation_of(row) for row in rows]

    # -- vouchers --------------------------------------------------------------------------------

    def keep_voucher(
        self, lease_id: str, sequence: int, voucher: Voucher, signature: bytes
    ) -> None:
        """Keep a lease's best voucher, in place of the one before: the node is paid on it."""
        text = json.dumps(voucher.to_message(), sort_keys=True)
        with self._write() as db:
            values = (lease_id, sequence, text, signature)
            db.execute("INSERT OR REPLACE INTO vouchers VALUES (?,?,?,?)", values)

    def voucher(self, lease_id: str) -> tuple[dict[str, Any], bytes] | None:
        """The message of a lease's best voucher and its witness's signature."""
        rows = self._read("SELECT message, signature FROM vouchers WHERE lease_id = ?", lease_id)
        return (dict(json.loads(rows[0][0])), bytes(rows[0][1])) if rows else None

    def vouchers(self) -> list[tuple[LeaseEntry, dict[str, Any], bytes]]:
        """Every lease that has a voucher, oldest first, with its best one's message and signature.

        What has been paid of them is not known here.
        """
        rows = self._read(
            "SELECT leases.*, vouchers.message, vouchers.signature"
            " FROM vouchers JOIN leases USING (lease_id) ORDER BY leases.rowid"
        )
        return [(_lease_of(row), dict(json.loads(row[-2])), bytes(row[-1])) for row in rows]

    # -- closes ----------------------------------------------------------------------------------

    def propose_close(self, lease_id: str, close: Close) -> Close:
        """Make the lease's only Close durable before it is signed; the first value stands."""
        with self._write() as db:
            row = db.execute(
                "SELECT message FROM closes WHERE lease_id = ?", (lease_id,)
            ).fetchone()
            if row is not None:
                return Close.from_message(json.loads(row[0]))
            text = json.dumps(close.to_message(), sort_keys=True)
            db.execute("INSERT INTO closes VALUES (?,?,NULL)", (lease_id, text))
        return close

    def adopt_close(self, lease_id: str, close: Close, signature: bytes) -> None:
        """Take over a Close of this node's key that this journal lost. Raises JournalConflict."""
        if self.propose_close(lease_id, close) != close:
            raise JournalConflict(f"{lease_id}: the server holds another signed Close")
        self.keep_close_signature(lease_id, signature)

    def keep_close_signature(self, lease_id: str, signature: bytes) -> None:
        """Store the signature of the lease's Close."""
        with self._write() as db:
            db.execute("UPDATE closes SET signature = ? WHERE lease_id = ?", (signature, lease_id))

    def close_of(self, lease_id: str) -> tuple[Close, bytes | None] | None:
        """The lease's Close and its signature, as far as they exist."""
        rows = self._read("SELECT message, signature FROM closes WHERE lease_id = ?", lease_id)
        return (Close.from_message(json.loads(rows[0][0])), rows[0][1]) if rows else None

    # --------------------------------------------------------------------------------------------

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction. Raises JournalError where it could not be committed."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise JournalError(f"the journal cannot be written: {error}") from error
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def _read(self, query: str, *values: Any) -> list[Any]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise JournalError(f"the journal cannot be read: {error}") from error


def chain(head: bytes, row: str) -> bytes:
    """The next head of a chain of readings."""
    return hashlib.sha256(head + row.encode()).digest()


def _lease_of(row: Any) -> LeaseEntry:
    lease_id, job_id, buyer, provider, lease_no, chain_id, contract, phase, outputs = row[:9]
    witness, metered = row[9:11]
    return LeaseEntry(
        lease_id, job_id, buyer, provider, lease_no, Domain(chain_id, contract),
        witness, bool(metered), tuple(json.loads(outputs)), phase,
    )  # fmt: skip


def _attestation_of(row: Any) -> AttestationEntry:
    return AttestationEntry(UsageAttestation.from_message(json.loads(row[0])), row[1], row[2])
