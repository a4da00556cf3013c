"""What the node must not forget: readings, attestations, vouchers, and how each lease ended.

SQLite in WAL mode with synchronous=FULL: a statement that returned survives a crash. A message is
written here before it is signed, and its signature before it is sent, so a restarted agent can
only repeat itself. For one (lease, sequence), and for a lease's Close, there is one value for good.
"""

import fcntl
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter

from marketplace.agent.errors import AgentJournalConflict, JournalError, StateLocked
from marketplace.domain.life import Outcome
from settlement.attestation import Close, MeteredUsage, Usage, UsageAttestation, Voucher
from settlement.chain.calls import SettlementEntry
from settlement.eip712 import Domain, Struct
from settlement.errors import SignatureError
from settlement.signing import verify

JOURNAL = "journal.db"  # the journal's file in a state folder
GENESIS = bytes(32)  # the head of an empty chain of readings
ACCEPTED = "accepted"  # the server's answer to an attestation; any other is why it was refused

_SCHEMA = """
CREATE TABLE IF NOT EXISTS leases (
    lease_id TEXT PRIMARY KEY, job_id TEXT NOT NULL, buyer TEXT NOT NULL, provider TEXT NOT NULL,
    lease_no BLOB NOT NULL, chain_id INTEGER NOT NULL, contract TEXT NOT NULL,
    witness TEXT NOT NULL, metered INTEGER NOT NULL, outputs TEXT NOT NULL, retry_on TEXT NOT NULL,
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

    RUNNING = "running"  # the job may run: its end is not decided
    ENDED = "ended"  # how it ended is decided
    REPORTED = "reported"  # the server has been told
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended: what `finish` reports besides usage. `outputs` is a blob's SHA-256."""

    outcome: Outcome
    reason: str
    exit_code: int | None = None
    outputs: str | None = None
    # Whether the meter also signs a Stop, because no witness may be there. Journals call it `stop`.
    signs_stop: Annotated[bool, Field(validation_alias="stop", serialization_alias="stop")] = False


@dataclass(frozen=True, slots=True)
class LeaseEntry:
    """A lease this node has worked on, as the journal has it."""

    lease_id: str
    job_id: str
    buyer: str
    provider: str
    lease_no: bytes
    domain: Domain  # of the escrow that this node signs for
    witness: str
    metered: bool  # whether its vouchers state more than time
    outputs: tuple[str, ...] = ()  # paths under /out that the job's buyer wants back
    retry_on: tuple[str, ...] = ()  # after which ends the job goes on elsewhere
    phase: Phase = Phase.RUNNING
    process: Mapping[str, Any] | None = None  # what its job runs as
    ending: Ending | None = None
    close: tuple[Close, bytes | None] | None = None  # with its signature, once it is signed
    voucher: SettlementEntry | None = None  # the best one so far

    @property
    def key(self) -> tuple[str, str, bytes]:
        """Buyer, provider and lease number: what every message about the lease begins with."""
        return self.buyer, self.provider, self.lease_no

    @property
    def is_reported(self) -> bool:
        return self.phase in (Phase.REPORTED, Phase.DONE)

    @property
    def voucher_type(self) -> type[Usage] | type[MeteredUsage]:
        return MeteredUsage if self.metered else Usage

    def is_signed(
        self, message: UsageAttestation | Close | Voucher, signature: bytes, by: str
    ) -> bool:
        """Whether an address signed a message, and that for this very lease."""
        try:
            verify(message, self.domain, signature, by)
        except SignatureError:
            return False
        return (message.buyer, message.provider, message.lease_no) == self.key


class AttestationEntry(NamedTuple):
    message: UsageAttestation
    signature: bytes | None  # None until it is signed
    answer: str | None  # None until the server has answered: ACCEPTED, or why it was refused


_ENDING = TypeAdapter(Ending)


class AgentJournal:
    """The node's memory, for several threads of one process. Every method raises JournalError."""

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
        with self._lock:
            self._db.close()

    def begin(self, entry: LeaseEntry) -> None:
        """Take up a lease, once for good. Raises AgentJournalConflict if this node already did."""
        with self._lock:
            if self.lease(entry.lease_id) is not None:
                raise AgentJournalConflict(f"{entry.lease_id} was already taken up here")
            self._run(
                "INSERT INTO leases VALUES (?,?,?,?,?,?,?,?,?,?,?,?,NULL,NULL,NULL,NULL,NULL,NULL)",
                *(entry.lease_id, entry.job_id, *entry.key),
                *(entry.domain.chain_id, entry.domain.verifying_contract, entry.witness),
                *(entry.metered, json.dumps(entry.outputs), json.dumps(entry.retry_on)),
                entry.phase,
            )

    def lease(self, lease_id: str) -> LeaseEntry | None:
        rows = self._run("SELECT * FROM leases WHERE lease_id = ?", lease_id)
        return _lease_of(rows[0]) if rows else None

    def leases(self, *, but: Phase | None = None) -> list[LeaseEntry]:
        """The leases in the order they came, `but` for those in one phase."""
        query = "SELECT * FROM leases WHERE phase IS NOT ? ORDER BY rowid"
        return [_lease_of(row) for row in self._run(query, but)]

    def note_process(self, lease_id: str, record: Mapping[str, Any]) -> None:
        """Remember what the job runs as: see `ProcessRuntime.reap`."""
        self._run("UPDATE leases SET process = ? WHERE lease_id = ?", json.dumps(record), lease_id)

    def end(self, lease_id: str, ending: Ending, close: Close | None = None) -> None:
        """Put down how a lease's job ended, with its Close, which says whether the job goes on.

        The first values are kept, whichever came alone.
        """
        text = _ENDING.dump_json(ending, by_alias=True).decode()
        query = """UPDATE leases SET ending = ?, phase = ?, close = coalesce(close, ?)
            WHERE lease_id = ? AND ending IS NULL"""
        self._run(query, text, Phase.ENDED, close and _text(close), lease_id)

    def amend_ending(self, lease_id: str, ending: Ending, close: Close | None = None) -> None:
        """Replace an ending that the server has not taken yet, and the Close if one is given."""
        text = _ENDING.dump_json(ending, by_alias=True).decode()
        query = """UPDATE leases SET ending = ?1, close = coalesce(?2, close),
            close_signature = iif(close = coalesce(?2, close), close_signature, NULL)
            WHERE lease_id = ?3 AND phase = ?4"""
        self._run(query, text, close and _text(close), lease_id, Phase.ENDED)

    def set_phase(self, lease_id: str, phase: Phase) -> None:
        self._run("UPDATE leases SET phase = ? WHERE lease_id = ?", phase, lease_id)

    def keep_voucher(self, lease_id: str, voucher: Voucher, signature: bytes) -> None:
        """Keep a lease's best voucher, in place of the one before: the node is paid on it."""
        query = "UPDATE leases SET voucher = ?, voucher_signature = ? WHERE lease_id = ?"
        self._run(query, _text(voucher), signature, lease_id)

    def add_reading(self, lease_id: str, row: Mapping[str, Any]) -> bytes:
        """Append a raw reading; the new head of the lease's hash chain, 32 bytes.

        head = SHA-256(previous head ‖ canonical JSON of the row), starting from 32 zero bytes.
        """
        text = json.dumps(row, sort_keys=True, separators=(",", ":"))
        query = "SELECT number, head FROM readings WHERE lease_id = ? ORDER BY number DESC LIMIT 1"
        with self._lock:
            rows = self._run(query, lease_id)
            number, previous = rows[0] if rows else (-1, GENESIS)
            head = hashlib.sha256(bytes(previous) + text.encode()).digest()
            self._run("INSERT INTO readings VALUES (?,?,?,?)", lease_id, number + 1, text, head)
        return head

    def propose(self, lease_id: str, attestation: UsageAttestation) -> None:
        """Make an attestation durable before it is signed. Raises AgentJournalConflict."""
        with self._lock:
            last = self.last(lease_id)
            if last is not None and last.message == attestation:
                return
            expected = 0 if last is None else last.message.sequence + 1
            if attestation.sequence != expected:
                comes = f"sequence {attestation.sequence} comes, but {expected} is next"
                raise AgentJournalConflict(f"{lease_id}: {comes}")
            if last is not None and not attestation.usage().covers(last.message.usage()):
                raise AgentJournalConflict(f"{lease_id}: usage falls at sequence {expected}")
            query = "INSERT INTO attestations VALUES (?,?,?,NULL,NULL)"
            self._run(query, lease_id, attestation.sequence, _text(attestation))

    def adopt(self, lease_id: str, attestation: UsageAttestation, signature: bytes) -> None:
        """Take over what this node signed and its journal lost. Raises AgentJournalConflict."""
        text = _text(attestation)
        sequence = attestation.sequence
        query = "SELECT message FROM attestations WHERE lease_id = ? AND sequence = ?"
        with self._lock:
            rows = self._run(query, lease_id, sequence)
            if not rows:
                query = "INSERT INTO attestations VALUES (?,?,?,?,?)"
                self._run(query, lease_id, sequence, text, signature, ACCEPTED)
            elif rows[0][0] != text:
                other = f"the server holds another signed value for {sequence}"
                raise AgentJournalConflict(f"{lease_id}: {other}")

    def keep_signature(self, lease_id: str, sequence: int, signature: bytes) -> None:
        self._run(
            "UPDATE attestations SET signature = ?"
            " WHERE lease_id = ? AND sequence = ? AND signature IS NULL",
            *(signature, lease_id, sequence),
        )

    def note_answer(self, lease_id: str, sequence: int, answer: str) -> None:
        query = "UPDATE attestations SET answer = ? WHERE lease_id = ? AND sequence = ?"
        self._run(query, answer, lease_id, sequence)

    def last(self, lease_id: str) -> AttestationEntry | None:
        found = self._attestations("ORDER BY sequence DESC LIMIT 1", lease_id)
        return found[0] if found else None

    def unsent(self, lease_id: str) -> list[tuple[UsageAttestation, bytes]]:
        found = self._attestations("AND answer IS NULL ORDER BY sequence", lease_id)
        return [(held.message, held.signature) for held in found if held.signature is not None]

    def _attestations(self, which: str, lease_id: str) -> list[AttestationEntry]:
        query = f"SELECT message, signature, answer FROM attestations WHERE lease_id = ? {which}"  # noqa: S608 - our own words
        return [
            AttestationEntry(UsageAttestation.from_message(json.loads(text)), signature, answer)
            for text, signature, answer in self._run(query, lease_id)
        ]

    def propose_close(self, lease_id: str, close: Close) -> None:
        """Make a lease's Close durable before it is signed. The first value is kept for good."""
        query = "UPDATE leases SET close = ? WHERE lease_id = ? AND close IS NULL"
        self._run(query, _text(close), lease_id)

    def adopt_close(self, lease_id: str, close: Close, signature: bytes) -> None:
        """Take over a Close that this journal lost. Raises AgentJournalConflict."""
        self.propose_close(lease_id, close)
        query = "UPDATE leases SET close_signature = ? WHERE lease_id = ? AND close = ?"
        self._run(query, signature, lease_id, _text(close))
        entry = self.lease(lease_id)
        if entry is None or entry.close != (close, signature):
            raise AgentJournalConflict(f"{lease_id}: the server holds another signed Close")

    def keep_close_signature(self, lease_id: str, close: Close, signature: bytes) -> None:
        query = "UPDATE leases SET close_signature = ? WHERE lease_id = ? AND close = ?"
        self._run(query, signature, lease_id, _text(close))

    def _run(self, query: str, *values: Any) -> list[Any]:
        """The rows of one statement, which is durable when this returns."""
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise JournalError(f"the journal cannot be read or written: {error}") from error


def _text(message: Struct) -> str:
    return json.dumps(message.to_message(), sort_keys=True)


def _lease_of(row: sqlite3.Row) -> LeaseEntry:
    names = ("lease_id", "job_id", "buyer", "provider", "lease_no", "witness")
    entry = LeaseEntry(
        **{name: row[name] for name in names}, domain=Domain(row["chain_id"], row["contract"]),
        metered=bool(row["metered"]), outputs=tuple(json.loads(row["outputs"])),
        retry_on=tuple(json.loads(row["retry_on"])),
        phase=Phase(row["phase"]), process=json.loads(row["process"]) if row["process"] else None,
        ending=_ENDING.validate_json(row["ending"]) if row["ending"] else None,
    )  # fmt: skip
    found: dict[str, Any] = {}
    if row["close"]:
        found["close"] = Close.from_message(json.loads(row["close"])), row["close_signature"]
    if row["voucher"]:
        voucher = entry.voucher_type.from_message(json.loads(row["voucher"]))
        found["voucher"] = SettlementEntry(voucher, row["voucher_signature"])
    return replace(entry, **found)


@contextmanager
def locked(state: Path) -> Iterator[None]:
    """Hold a state folder: two agents with one could sign two values. Raises StateLocked."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    state.chmod(0o700)
    lock_fd = os.open(state / "agent.lock", os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(lock_fd, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateLocked(f"another agent works on {state}") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
        lock.truncate(0)


def running_pid(state: Path) -> int | None:
    """The process id of the agent that holds a state folder, or None if none does."""
    with suppress(OSError), (state / "agent.lock").open(errors="replace") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = lock.read(32)
            return int(text) if text.isdigit() else None
    return None
