import hashlib
import json
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from marketplace.agent.errors import AgentJournalConflict, JournalError
from marketplace.agent.journal import ACCEPTED, GENESIS, AgentJournal, Ending, LeaseEntry, Phase
from marketplace.agent.meters import Reading
from marketplace.agent.node import Attestor, unix_ms
from marketplace.domain.life import Outcome
from marketplace.limits import STOP_SECONDS
from settlement.attestation import Close, Stop, UsageAttestation
from settlement.signing import LocalSigner, verify
from settlement.usage import UsageVector
from tests import fakes_agent
from tests.factories import BUYER, PROVIDER, WITNESS
from tests.fakes_agent import DOMAIN

ENTRY = LeaseEntry(
    "lease_1", "job_1", BUYER, PROVIDER, b"n" * 16, DOMAIN, WITNESS, False, ("/out",),
    ("interruption", "error"),
)  # fmt: skip
READING = Reading(at_ms=1)
DONE = Ending(Outcome.SUCCEEDED, "completed", 0)


statement = partial(fakes_agent.statement, ENTRY)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> AgentJournal:
    journal = AgentJournal(path)
    journal.begin(ENTRY)
    return journal


@pytest.fixture
def signer(path: Path) -> "SpyingSigner":
    return SpyingSigner(path)


@pytest.fixture
def attestor(journal: AgentJournal, signer: "SpyingSigner") -> Attestor:
    return Attestor(journal, signer, ENTRY)


def now(journal: AgentJournal) -> LeaseEntry:
    entry = journal.lease("lease_1")
    assert entry is not None
    return entry


class SpyingSigner:
    """Signs, and looks at each signing whether the journal's file already holds the message."""

    def __init__(self, path: Path) -> None:
        self.inner = LocalSigner.create()
        self.address = self.inner.address
        self.path = path
        self.durable: list[bool] = []
        self.signed: list[bytes] = []

    def sign_digest(self, digest: bytes) -> bytes:
        other = sqlite3.connect(self.path)
        query = "SELECT message FROM attestations UNION ALL SELECT close FROM leases"
        texts = [json.loads(text) for (text,) in other.execute(query) if text is not None]
        other.close()
        kinds = [UsageAttestation if "sequence" in text else Close for text in texts]
        messages = [kind.from_message(text) for kind, text in zip(kinds, texts, strict=True)]
        self.durable.append(digest in {message.digest(DOMAIN) for message in messages})
        self.signed.append(digest)
        return self.inner.sign_digest(digest)


def test_values_are_committed_before_they_are_signed(
    attestor: Attestor, signer: SpyingSigner
) -> None:
    for ms in (0, 1000, 2000):
        attestor.attest(UsageVector(ms=ms), READING)
    attestor.conclude(DONE)
    assert signer.durable == [True] * 4


def test_the_journal_is_the_owners_and_syncs_all(journal: AgentJournal, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert journal._db.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert journal._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


@pytest.mark.parametrize(
    "following",
    [statement(0, 1001), statement(2, 1000), statement(1, 999), statement(1, 1000, units=4)],
    ids=["second value", "gap", "time falls", "units fall"],
)
def test_what_does_not_follow_is_refused(
    journal: AgentJournal, following: UsageAttestation
) -> None:
    for _ in range(2):
        journal.propose("lease_1", statement(0, 1000, units=5))
    with pytest.raises(AgentJournalConflict):
        journal.propose("lease_1", following)
    assert journal.last("lease_1") == (statement(0, 1000, units=5), None, None)


def test_a_crash_between_journal_and_signature_signs_the_same_value(
    journal: AgentJournal, path: Path, signer: SpyingSigner
) -> None:
    journal.propose("lease_1", statement(0, 0))
    journal.close()  # the agent died here
    final, signature = Attestor(AgentJournal(path), signer, ENTRY).final()
    assert final == statement(0, 0)
    verify(final, DOMAIN, signature, signer.address)


def test_signed_bytes_are_kept_and_repeated(
    journal: AgentJournal, attestor: Attestor, signer: SpyingSigner
) -> None:
    attestor.attest(UsageVector(ms=5), READING)
    first = attestor.final()
    assert attestor.final() == first
    assert journal.unsent("lease_1") == [first]
    assert len(signer.signed) == 1
    journal.note_answer("lease_1", 0, ACCEPTED)
    assert journal.unsent("lease_1") == []


def test_a_lease_is_taken_up_once(journal: AgentJournal, path: Path) -> None:
    for opened in (journal, AgentJournal(path)):
        with pytest.raises(AgentJournalConflict, match="already"):
            opened.begin(ENTRY)


def test_leases_read_back_as_they_were_begun(journal: AgentJournal) -> None:
    assert journal.lease("lease_1") == ENTRY
    assert journal.lease("lease_2") is None
    journal.set_phase("lease_1", Phase.REPORTED)
    assert journal.leases() == [replace(ENTRY, phase=Phase.REPORTED)]


def test_the_first_ending_stands(journal: AgentJournal) -> None:
    first = Ending(Outcome.FAILED, "exit_code", 3)
    for ending in (first, DONE):
        journal.end("lease_1", ending)
        assert now(journal).ending == first
    journal.amend_ending("lease_1", replace(first, outputs="ab" * 32))
    journal.set_phase("lease_1", Phase.REPORTED)
    journal.amend_ending("lease_1", DONE)
    assert now(journal).ending == replace(first, outputs="ab" * 32)


def test_a_lease_has_one_close_for_good(journal: AgentJournal, attestor: Attestor) -> None:
    attestor.attest(UsageVector(ms=7), READING)
    attestor.conclude(DONE)
    close, signature = attestor.close()
    attestor.attest(UsageVector(ms=9), READING)
    attestor.conclude(DONE)
    assert attestor.close() == (close, signature)
    assert close.ms == 7
    with pytest.raises(AgentJournalConflict, match="another signed Close"):
        journal.adopt_close("lease_1", replace(close, ms=8), signature)


def test_a_job_that_never_ran_closes_at_nothing(attestor: Attestor) -> None:
    attestor.conclude(Ending(Outcome.FAILED, "start_limit"))
    final, _ = attestor.final()
    assert (final.sequence, final.usage()) == (0, UsageVector())
    assert attestor.close()[0] == Close(BUYER, PROVIDER, b"n" * 16, 0, 0, 0, again=True)


@pytest.mark.parametrize("events", [(), ("error",), ("interruption",), ("interruption", "error")])
@pytest.mark.parametrize("outcome", Outcome)
def test_a_close_says_again_only_if_the_job_is_retried_after_such_an_end(
    path: Path, signer: SpyingSigner, events: tuple[str, ...], outcome: Outcome
) -> None:
    journal = AgentJournal(path)
    journal.begin(replace(ENTRY, retry_on=events))
    journal.close()
    journal = AgentJournal(path)  # as after a restart
    attestor = Attestor(journal, signer, now(journal))
    attestor.conclude(Ending(outcome, "why"))
    retried = {Outcome.FAILED: "error", Outcome.LOST: "interruption"}
    assert attestor.close()[0].again is (retried.get(outcome) in events)


@pytest.fixture
def retried(path: Path) -> AgentJournal:
    """The journal of a node whose job is retried after an error."""
    journal = AgentJournal(path)
    journal.begin(replace(ENTRY, retry_on=("error",)))
    return journal


def test_a_close_follows_its_ending_until_the_server_has_that(
    retried: AgentJournal, signer: SpyingSigner
) -> None:
    attestor = Attestor(retried, signer, now(retried))
    attestor.attest(UsageVector(ms=7), READING)
    attestor.conclude(DONE)
    first = attestor.close()
    attestor.amend(replace(DONE, outputs="ab" * 32))
    assert attestor.close() == first
    failed = Ending(Outcome.FAILED, "outputs_too_large", 0)
    attestor.amend(failed)
    close, signature = attestor.close()
    assert (now(retried).ending, close) == (failed, replace(first[0], again=True))
    verify(close, DOMAIN, signature, signer.address)
    assert signer.durable == [True] * 3
    retried.set_phase("lease_1", Phase.REPORTED)
    attestor.amend(DONE)
    assert (now(retried).ending, attestor.close()) == (failed, (close, signature))


def test_a_signature_of_a_close_that_was_replaced_is_not_kept(
    retried: AgentJournal, signer: SpyingSigner
) -> None:
    attestor = Attestor(retried, signer, now(retried))
    attestor.conclude(DONE)
    close, signature = attestor.close()
    attestor.amend(Ending(Outcome.FAILED, "budget"))
    retried.keep_close_signature("lease_1", close, signature)  # a thread that was slow
    again, signature = attestor.close()
    assert again.again
    verify(again, DOMAIN, signature, signer.address)


def test_a_crash_before_the_close_is_signed_keeps_it_with_its_ending(
    retried: AgentJournal, path: Path, signer: SpyingSigner
) -> None:
    class Dying(SpyingSigner):
        def sign_digest(self, digest: bytes) -> bytes:
            if len(self.signed) == 1:
                raise KeyboardInterrupt
            return super().sign_digest(digest)

    with pytest.raises(KeyboardInterrupt):
        Attestor(retried, Dying(path), now(retried)).conclude(DONE)
    retried.close()
    journal = AgentJournal(path)
    attestor = Attestor(journal, signer, now(journal))
    attestor.conclude(Ending(Outcome.FAILED, "agent_restarted"))
    assert now(journal).ending == DONE
    assert not attestor.close()[0].again


def test_a_stop_is_for_its_lease_and_a_short_time_and_never_says_again(
    retried: AgentJournal, signer: SpyingSigner
) -> None:
    before = unix_ms() // 1000
    stop, signature = Attestor(retried, signer, now(retried)).stop()
    assert stop == Stop(BUYER, PROVIDER, b"n" * 16, again=False, deadline=stop.deadline)
    assert before + STOP_SECONDS <= stop.deadline <= unix_ms() // 1000 + STOP_SECONDS
    verify(stop, DOMAIN, signature, signer.address)


def test_evidence_is_a_hash_chain_over_the_kept_readings(
    journal: AgentJournal, attestor: Attestor
) -> None:
    for ms in (0, 1000, 2000):
        last = attestor.attest(UsageVector(ms=ms), replace(READING, ms=ms))
    rows = [row for (row,) in journal._db.execute("SELECT row FROM readings ORDER BY number")]
    head = GENESIS
    for row in rows:
        head = hashlib.sha256(head + row.encode()).digest()
    assert last.evidence == head
    assert [json.loads(row)["ms"] for row in rows] == [0, 1000, 2000]


def test_what_the_server_holds_is_adopted_but_never_contradicted(journal: AgentJournal) -> None:
    journal.propose("lease_1", statement(0, 0))
    journal.adopt("lease_1", statement(0, 0), b"s" * 65)
    journal.adopt("lease_1", statement(1, 1000), b"t" * 65)
    assert journal.last("lease_1") == (statement(1, 1000), b"t" * 65, ACCEPTED)
    with pytest.raises(AgentJournalConflict, match="another signed value for 1"):
        journal.adopt("lease_1", statement(1, 1001), b"u" * 65)


def test_after_a_restore_nothing_below_the_servers_mark_is_signed(
    journal: AgentJournal, attestor: Attestor, signer: SpyingSigner
) -> None:
    """The journal is an old copy; the server's newer statements raise its mark first."""
    attestor.attest(UsageVector(ms=0), READING)
    newer = statement(1, 5000)
    journal.adopt("lease_1", newer, signer.inner.sign_digest(newer.digest(DOMAIN)))
    signer.signed.clear()
    attestor.conclude(Ending(Outcome.FAILED, "agent_restarted"))
    assert attestor.final()[0] == newer
    assert attestor.close()[0].ms == 5000
    assert signer.signed == [attestor.close()[0].digest(DOMAIN)]


def test_an_unwritable_journal_signs_nothing(
    journal: AgentJournal, attestor: Attestor, signer: SpyingSigner
) -> None:
    attestor.attest(UsageVector(ms=0), READING)
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages}")  # as on a full disk
    readings = (Reading(at_ms=ms) for ms in range(1, 200))
    with pytest.raises(JournalError):
        list(map(partial(attestor.attest, UsageVector(ms=1)), readings))
    last = journal.last("lease_1")
    assert last is not None
    assert len(signer.signed) <= last.message.sequence + 1
    assert all(signer.durable)
    assert not journal._db.in_transaction


def test_threads_share_a_journal(journal: AgentJournal, attestor: Attestor) -> None:
    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(journal.last, "lease_1") for _ in range(200)]
        for ms in range(20):
            attestor.attest(UsageVector(ms=ms), READING)
    assert all(reader.exception() is None for reader in readers)
    assert [message.sequence for message, _ in journal.unsent("lease_1")] == list(range(20))


def test_a_file_that_is_no_journal_is_refused(path: Path) -> None:
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(JournalError):
        AgentJournal(path)
