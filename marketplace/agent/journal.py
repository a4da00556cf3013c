"""What the node must not forget: readings, attestations, vouchers, and how each lease ended.

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
from enum import StrEnum
from pathlib import Path
from typing import Any

from marketplace.agent.errors import AgentJournalConflict, JournalError
from settlement.attestation import Close, MeteredUsage, Usage, UsageAttestation, Voucher
from settlement.eip712 import Domain, Struct

GENESIS = bytes(32)  # the head of an empty chain of readings
ACCEPTED = "accepted"  # the server's answer to an attestation; any other is why it was refused

_SCHEMA = """
CREATE TABLE IF NOT EXISTS leases (
    lease_id TEXT PRIMARY KEY, job_id TEXT NOT NULL, buyer TEXT NOT NULL, provider TEXT NOT NULL,
    lease_no BLOB NOT NULL, chain_id INTEGER NOT NULL, contract TEXT NOT NULL,
    witness TEXT NOT NULL, metered INTEGER NOT NULL, outputs TEXT NOT NULL,
    phase TEXT NOT NULL CHECK (phase IN ('running', 'ended', 'reported', 'done')),
    process TEXT, ending TEXT,
    close TEXT, close_signature BLOB, voucher TEXT, voucher_signature BLOB
) STRICT;
CREATE TABLE IF NOT EXISTS readings (
    lease_id TEXT NOT NULL REFERENCES leases, number INTEGER NOT NULL,
    row TEXT NOT NULL, head BLOB NOT NULL, PRIMARY KEY (lease_id, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attestations (
    lease_id TEXT NOT NULL REFERENCES leases, sequence INTEGER NOT NULL,
    message TEXT NOT NULL, signature BLOB, answer TEXT, PRIMARY KEY (lease_id, sequence)
) STRICT, WITHOUT ROWID;
"""


class Phase(StrEnum):
    """How far the node is with a lease."""

    RUNNING = "running"
    ENDED = "ended"  # how it ended is decided
    REPORTED = "reported"  # the server has been told
    DONE = "done"


@dataclass(frozen=True, slots=True)
class LeaseEntry:
    """A lease this node has worked on, and in which contract's domain it signs for it.

    `outputs` are the paths under /out that the job's buyer wants back. `witness` signs its
    vouchers, which state more than time if it is `metered`. `process` is what its job runs as.
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
    phase: Phase = Phase.RUNNING
    process: Mapping[str, Any] | None = None

    @property
    def key(self) -> tuple[str, str, bytes]:
        """Buyer, provider and lease number: what every message about the lease begins with."""
        return self.buyer, self.provider, self.lease_no

    @property
    def voucher_type(self) -> type[Usage] | type[MeteredUsage]:
        """The message that pays for the lease."""
        return MeteredUsage if self.metered else Usage


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended: what `finish` reports besides usage. `outputs` is a blob's SHA-256."""

    outcome: str
    reason: str
    exit_code: int | None = None
    outputs: str | None = None
    stop: bool = False  # whether the meter also signs a Stop, because no witness may be there


@dataclass(frozen=True, slots=True)
class AttestationEntry:
    """A journaled attestation.

    `signature` is None between the two commits around signing, `answer` until the server has
    answered: ACCEPTED, or why not.
    """

    message: UsageAttestation
    signature: bytes | None
    answer: str | None


class AgentJournal:
    """The node's memory. Safe to use from several threads; one process at a time.

    Every method raises JournalError if the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.row_factory = sqlite3.Row
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
        """Take up a lease, once for good. Raises AgentJournalConflict if this node already did."""
        values = (
            *(entry.lease_id, entry.job_id, *entry.key),
            *(entry.domain.chain_id, entry.domain.verifying_contract, entry.witness),
            *(entry.metered, json.dumps(entry.outputs), entry.phase),
        )
        query = "INSERT INTO leases VALUES (?,?,?,?,?,?,?,?,?,?,?,NULL,NULL,NULL,NULL,NULL,NULL)"
        with self._write() as db:
            try:
                db.execute(query, values)
            except sqlite3.IntegrityError:
                raise AgentJournalConflict(f"{entry.lease_id} was already taken up here") from None

    def lease(self, lease_id: str) -> LeaseEntry | None:
        """The lease, if this node ever took it up."""
        rows = self._read("SELECT * FROM leases WHERE lease_id = ?", lease_id)
        return _lease_of(rows[0]) if rows else None

    def open_leases(self) -> list[LeaseEntry]:
        """Leases that still have something to do."""
        rows = self._read("SELECT * FROM leases WHERE phase <> ? ORDER BY rowid", Phase.DONE)
        return [_lease_of(row) for row in rows]

    def note_process(self, lease_id: str, record: Mapping[str, Any]) -> None:
        """Remember what the job runs as, so that a successor can end it."""
        self._set(lease_id, process=json.dumps(record))

    def end(self, lease_id: str, ending: Ending) -> Ending:
        """Decide how a lease ended; the first decision stands and is returned."""
        with self._write():
            decided = self.ending(lease_id)
            if decided is None:
                text = json.dumps(asdict(ending))
                self._set(lease_id, ending=text, phase=Phase.ENDED)
        return decided or ending

    def amend_ending(self, lease_id: str, ending: Ending) -> None:
        """Replace an ending that was not reported yet, once its outputs are stored."""
        with self._write():
            entry = self.lease(lease_id)
            if entry is not None and entry.phase is Phase.ENDED:
                self._set(lease_id, ending=json.dumps(asdict(ending)))

    def ending(self, lease_id: str) -> Ending | None:
        """How the lease ended, once that is decided."""
        rows = self._read("SELECT ending FROM leases WHERE lease_id = ?", lease_id)
        return Ending(**json.loads(rows[0][0])) if rows and rows[0][0] else None

    def set_phase(self, lease_id: str, phase: Phase) -> None:
        """Go on to REPORTED or DONE."""
        self._set(lease_id, phase=phase)

    # -- readings --------------------------------------------------------------------------------

    def add_reading(self, lease_id: str, row: Mapping[str, Any]) -> bytes:
        """Append a raw reading; the new head of the lease's hash chain, 32 bytes.

        head = SHA-256(previous head ‖ canonical JSON of the row), starting from 32 zero bytes.
        """
        text = json.dumps(row, sort_keys=True, separators=(",", ":"))
        query = "SELECT number, head FROM readings WHERE lease_id = ? ORDER BY number DESC LIMIT 1"
        with self._write() as db:
            number, head = db.execute(query, (lease_id,)).fetchone() or (-1, GENESIS)
            head = hashlib.sha256(bytes(head) + text.encode()).digest()
            db.execute("INSERT INTO readings VALUES (?,?,?,?)", (lease_id, number + 1, text, head))
        return head

    def readings(self, lease_id: str) -> list[str]:
        """Raw readings of a lease in order, as the JSON texts that were hashed."""
        query = "SELECT row FROM readings WHERE lease_id = ? ORDER BY number"
        return [row[0] for row in self._read(query, lease_id)]

    # -- attestations ----------------------------------------------------------------------------

    def propose(self, lease_id: str, attestation: UsageAttestation) -> None:
        """Make an attestation's value durable before it is signed.

        Raises AgentJournalConflict if the sequence is not the next one, has another value, or usage
        falls.
        """
        with self._write() as db:
            last = self.last(lease_id)
            if last is not None and last.message == attestation:
                return
            expected = 0 if last is None else last.message.sequence + 1
            if attestation.sequence != expected:
                raise AgentJournalConflict(
                    f"{lease_id}: sequence {attestation.sequence} comes, but {expected} is next"
                )
            if last is not None and not attestation.usage().covers(last.message.usage()):
                raise AgentJournalConflict(f"{lease_id}: usage falls at sequence {expected}")
            values = (lease_id, attestation.sequence, _text(attestation))
            db.execute("INSERT INTO attestations VALUES (?,?,?,NULL,NULL)", values)

    def adopt(self, lease_id: str, attestation: UsageAttestation, signature: bytes) -> None:
        """Take over what this node's key signed and the server kept, but this journal lost.

        Raises AgentJournalConflict if the journal has another value for that sequence.
        """
        text, sequence = _text(attestation), attestation.sequence
        query = "SELECT message FROM attestations WHERE lease_id = ? AND sequence = ?"
        with self._write() as db:
            row = db.execute(query, (lease_id, sequence)).fetchone()
            if row is None:
                values = (lease_id, sequence, text, signature, ACCEPTED)
                db.execute("INSERT INTO attestations VALUES (?,?,?,?,?)", values)
            elif row[0] != text:
                raise AgentJournalConflict(
                    f"{lease_id}: the server holds another signed value for {sequence}"
                )

    def keep_signature(self, lease_id: str, sequence: int, signature: bytes) -> None:
        """Store the bytes that will be sent, and sent again, unchanged."""
        with self._write() as db:
            db.execute(
                "UPDATE attestations SET signature = ?"
                " WHERE lease_id = ? AND sequence = ? AND signature IS NULL",
                (signature, lease_id, sequence),
            )

    def note_answer(self, lease_id: str, sequence: int, answer: str) -> None:
        """Remember what the server said to an attestation: ACCEPTED or a refusal's code."""
        query = "UPDATE attestations SET answer = ? WHERE lease_id = ? AND sequence = ?"
        with self._write() as db:
            db.execute(query, (answer, lease_id, sequence))

    def last(self, lease_id: str) -> AttestationEntry | None:
        """The attestation with the highest sequence: the high-water mark."""
        found = self._attestations("lease_id = ? ORDER BY sequence DESC LIMIT 1", lease_id)
        return found[0] if found else None

    def unsent(self, lease_id: str) -> list[tuple[UsageAttestation, bytes]]:
        """Signed attestations that the server has not answered, in order."""
        found = self._attestations("lease_id = ? AND answer IS NULL ORDER BY sequence", lease_id)
        return [(held.message, held.signature) for held in found if held.signature is not None]

    def _attestations(self, which: str, lease_id: str) -> list[AttestationEntry]:
        query = "SELECT message, signature, answer FROM attestations WHERE "
        return [
            AttestationEntry(UsageAttestation.from_message(json.loads(text)), signature, answer)
            for text, signature, answer in self._read(query + which, lease_id)
        ]

    # -- vouchers --------------------------------------------------------------------------------

    def keep_voucher(self, lease_id: str, voucher: Voucher, signature: bytes) -> None:
        """Keep a lease's best voucher, in place of the one before: the node is paid on it."""
        self._set(lease_id, voucher=_text(voucher), voucher_signature=signature)

    def voucher(self, lease_id: str) -> tuple[Voucher, bytes] | None:
        """A lease's best voucher and its witness's signature."""
        rows = self._read("SELECT * FROM leases WHERE lease_id = ?", lease_id)
        return _voucher_of(rows[0]) if rows and rows[0]["voucher"] else None

    def vouchers(self) -> list[tuple[LeaseEntry, Voucher, bytes]]:
        """Every lease that has a voucher, oldest first, with its best one and its signature.

        What has been paid of them is not known here.
        """
        rows = self._read("SELECT * FROM leases WHERE voucher IS NOT NULL ORDER BY rowid")
        return [(_lease_of(row), *_voucher_of(row)) for row in rows]

    # -- closes ----------------------------------------------------------------------------------

    def propose_close(self, lease_id: str, close: Close) -> Close:
        """Make the lease's only Close durable before it is signed; the first value stands."""
        with self._write():
            known = self.close_of(lease_id)
            if known is not None:
                return known[0]
            self._set(lease_id, close=_text(close))
        return close

    def adopt_close(self, lease_id: str, close: Close, signature: bytes) -> None:
        """Take over a Close that this node signed and its journal lost.

        Raises AgentJournalConflict.
        """
        if self.propose_close(lease_id, close) != close:
            raise AgentJournalConflict(f"{lease_id}: the server holds another signed Close")
        self.keep_close_signature(lease_id, signature)

    def keep_close_signature(self, lease_id: str, signature: bytes) -> None:
        """Store the signature of the lease's Close."""
        self._set(lease_id, close_signature=signature)

    def close_of(self, lease_id: str) -> tuple[Close, bytes | None] | None:
        """The lease's Close and its signature, as far as they exist."""
        rows = self._read("SELECT close, close_signature FROM leases WHERE lease_id = ?", lease_id)
        if not rows or rows[0]["close"] is None:
            return None
        return Close.from_message(json.loads(rows[0]["close"])), rows[0]["close_signature"]

    # --------------------------------------------------------------------------------------------

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """One durable transaction, or a part of the one that is under way."""
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise JournalError(f"the journal cannot be written: {error}") from error
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def _read(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise JournalError(f"the journal cannot be read: {error}") from error

    def _set(self, lease_id: str, **columns: str | bytes) -> None:
        names = ", ".join(f"{name} = ?" for name in columns)
        with self._write() as db:
            query = f"UPDATE leases SET {names} WHERE lease_id = ?"  # noqa: S608 - our own names
            db.execute(query, (*columns.values(), lease_id))


def _text(message: Struct) -> str:
    return json.dumps(message.to_message(), sort_keys=True)


def _lease_of(row: sqlite3.Row) -> LeaseEntry:
    return LeaseEntry(
        lease_id=row["lease_id"],
        job_id=row["job_id"],
        buyer=row["buyer"],
        provider=row["provider"],
        lease_no=row["lease_no"],
        domain=Domain(row["chain_id"], row["contract"]),
        witness=row["witness"],
        metered=bool(row["metered"]),
        outputs=tuple(json.loads(row["outputs"])),
        phase=Phase(row["phase"]),
        process=json.loads(row["process"]) if row["process"] else None,
    )


def _voucher_of(row: sqlite3.Row) -> tuple[Voucher, bytes]:
    message = json.loads(row["voucher"])
    return _lease_of(row).voucher_type.from_message(message), row["voucher_signature"]
