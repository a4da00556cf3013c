"""A value is on disk before it is signed, whatever happens to the process."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketplace.witness.journal import Checkpoint, WitnessJournal, WitnessJournalConflict
from marketplace.witness.policy import Mark
from tests.unit.witness.conftest import Lease

ROOT = Path(__file__).resolve().parents[3]
LEASE = bytes(range(16))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[WitnessJournal]:
    opened = WitnessJournal(tmp_path / "journal.db")
    yield opened
    opened.close()


def test_new_journal_is_private_and_empty(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "journal.db"
    journal = WitnessJournal(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert journal.mark(LEASE) == Mark()
    assert journal.checkpoint(LEASE) is None
    journal.close()


def test_same_value_again_changes_nothing(journal: WitnessJournal) -> None:
    for _ in range(2):
        journal.record(LEASE, Mark(3, 30, 1, 1), {"ms": 30})
    assert journal.mark(LEASE) == Mark(3, 30, 1, 1)


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        (Mark(3, 31, 1, 1), {"ms": 31}),
        (Mark(2, 30, 1, 1), {"ms": 30}),
        (Mark(4, 29, 1, 1), {"ms": 29}),
        (Mark(4, 30, 0, 1), {"ms": 30}),
        (Mark(4, 30, 1, 0), {"ms": 30}),
    ],
)
def test_other_or_smaller_value_is_refused(
    journal: WitnessJournal, mark: Mark, message: dict[str, int]
) -> None:
    journal.record(LEASE, Mark(3, 30, 1, 1), {"ms": 30})
    with pytest.raises(WitnessJournalConflict):
        journal.record(LEASE, mark, message)
    assert journal.mark(LEASE) == Mark(3, 30, 1, 1)


def test_leases_do_not_touch_each_other(journal: WitnessJournal) -> None:
    journal.record(LEASE, Mark(3, 30), {"ms": 30})
    journal.record(bytes(16), Mark(0, 0), {"ms": 0})
    assert journal.mark(LEASE) == Mark(3, 30)


def test_close_ends_vouchers_and_stands_once(journal: WitnessJournal) -> None:
    journal.record(LEASE, Mark(1, 10), {"ms": 10})
    with pytest.raises(WitnessJournalConflict):
        journal.record_close(LEASE, Mark(1, 9), {"ms": 9})
    journal.record_close(LEASE, Mark(1, 20), {"ms": 20})
    journal.record_close(LEASE, Mark(1, 20), {"ms": 20})
    with pytest.raises(WitnessJournalConflict):
        journal.record_close(LEASE, Mark(1, 21), {"ms": 21})
    with pytest.raises(WitnessJournalConflict):
        journal.record(LEASE, Mark(2, 22), {"ms": 22})


def test_adopting_never_lowers(journal: WitnessJournal) -> None:
    journal.record(LEASE, Mark(5, 50, 5, 5), {"ms": 50})
    journal.adopt(LEASE, Mark(3, 60, 1, 9))
    assert journal.mark(LEASE) == Mark(5, 60, 5, 9)


def test_watch_is_saved(journal: WitnessJournal) -> None:
    journal.save(LEASE, Checkpoint(1, 2, 3, 4))
    journal.save(LEASE, Checkpoint(5, 6, 7, 8))
    assert journal.checkpoint(LEASE) == Checkpoint(5, 6, 7, 8)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=20))
def test_one_sequence_never_has_two_values(tries: list[tuple[int, int]]) -> None:
    journal = WitnessJournal(None)
    signed: dict[int, int] = {}
    for sequence, ms in tries:
        try:
            journal.record(LEASE, Mark(sequence, ms), {"ms": ms})
        except WitnessJournalConflict:
            continue
        assert signed.setdefault(sequence, ms) == ms
    assert list(signed.values()) == sorted(signed.values())
    journal.close()


def test_two_witnesses_on_one_file_agree_on_one_value(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    WitnessJournal(path).close()
    won: list[int] = []

    def race(ms: int) -> None:
        journal = WitnessJournal(path)
        try:
            journal.record(LEASE, Mark(1, ms), {"ms": ms})
            won.append(ms)
        except WitnessJournalConflict:
            pass
        journal.close()

    threads = [threading.Thread(target=race, args=(ms,)) for ms in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = WitnessJournal(path)
    assert won == [after.mark(LEASE).ms]
    after.close()


DIES_WHILE_SIGNING = """
import os, signal, sys
from pathlib import Path
from marketplace.witness.desk import Desk
from marketplace.witness.journal import WitnessJournal
from tests.unit.witness.conftest import BUYER, DOMAIN, WITNESS, Lease

class Dying:
    address = WITNESS.address
    def sign_digest(self, digest):
        os.kill(os.getpid(), signal.SIGKILL)

lease = Lease()
desk = Desk(Dying(), DOMAIN, WitnessJournal(Path(sys.argv[1])), [BUYER.address])
assert desk.admit(lease.papers()) is None
desk.countersign(*lease.reading(0, 0), 0)
"""


def test_witness_killed_while_signing_keeps_its_mark(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    command = [sys.executable, "-c", DIES_WHILE_SIGNING, str(path)]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    journal, number = WitnessJournal(path), Lease().number
    with pytest.raises(WitnessJournalConflict):
        journal.record(number, Mark(0, 1), {"ms": 1})
    assert journal.mark(number) == Mark(0, 0, 0, 0)
    journal.close()
