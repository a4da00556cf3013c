"""The database: settings, constraints, types, migrations, and the store contracts on SQLite."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.dialects.sqlite import dialect
from sqlalchemy.exc import IntegrityError

from marketplace.db.blob_files import FREE_BYTES_MIN, BlobFolder
from marketplace.db.chain_events import SqlEventStore
from marketplace.db.outbox import SqlOutbox
from marketplace.db.store import Database
from marketplace.db.tables import (
    AccountRow,
    ApiKeyRow,
    AttestationRow,
    GpuRow,
    JobEventRow,
    MarkRow,
    NodeRow,
    OrderEntryRow,
)
from marketplace.db.types import Atoms
from marketplace.db.upgrade import MIGRATIONS, newest_revision, upgrade
from marketplace.domain.drafts import NodeState
from marketplace.errors import AlreadyExists, Unavailable
from marketplace.server import operations
from marketplace.server.settings import Settings
from settlement.ports import IntentKind
from settlement.reconcile import FindingKind
from tests.databases import rows_of, statements
from tests.fakes_settlement import MemoryEvents
from tests.market_world import World, new_world
from tests.store_cases import EventCases, OutboxCases, StoreCases


@pytest.fixture
def url(tmp_path: Path) -> str:
    made = f"sqlite:///{tmp_path}/market.db"
    upgrade(made)
    return made


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    made = Database(url)
    yield made
    made.close()


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as made:
        yield made


class TestSqlOutbox(OutboxCases):
    @pytest.fixture
    def store(self, database: Database) -> SqlOutbox:
        return SqlOutbox(database)


def test_compare_passes_over_old_intents_that_are_over(
    database: Database, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = SqlOutbox(database)
    payload = {"to": "0x", "data": "0x"}
    waits, final, dead = (outbox.enqueue(IntentKind.CLOSE, k, payload).id for k in "wfd")
    outbox.mark_signed(final, "0x01", 0, b"", "0x02")
    outbox.mark_confirmed(final, "0x02", 1, "0x03")
    outbox.mark_final(final)
    outbox.mark_dead(dead, "refused")
    assert [intent.id for intent in outbox.unfinished(9)] == [waits]
    with database.write() as store:
        store.connection.execute(text("UPDATE intents SET created_ms = 0"))
    for name in ("ChainClient", "load_deployment", "check_deployment"):
        chain = MagicMock(**{"return_value.open.return_value": (MagicMock(), MagicMock())})
        monkeypatch.setattr(operations, name, chain)
    settings = Settings(
        database_url=url, rpc_url="http://nowhere", chain_id=1, deployments=tmp_path
    )
    found = operations.compare(settings).findings
    assert [(one.kind, one.subject) for one in found] == [(FindingKind.INTENT_STUCK, "w")]


class TestSqlEventStore(EventCases):
    @pytest.fixture
    def store(self, database: Database) -> SqlEventStore:
        return SqlEventStore(database)


class TestMemoryEvents(EventCases):
    """The store that tests of the indexer alter keeps the same promises."""

    @pytest.fixture
    def store(self) -> MemoryEvents:
        return MemoryEvents()


def test_commits_are_durable_and_constraints_are_on(database: Database) -> None:
    with database.read() as store:
        connection = store.connection

        def pragma(name: str) -> Any:
            return connection.execute(text(f"PRAGMA {name}")).scalar_one()

        assert pragma("journal_mode") == "wal"
        assert pragma("synchronous") == 2
        assert pragma("foreign_keys") == 1
        assert pragma("busy_timeout") == 10_000


def test_a_current_database_starts_without_alembic(url: str) -> None:
    assert ScriptDirectory(str(MIGRATIONS)).get_current_head() == newest_revision()
    code = (
        "import sys\nfrom marketplace.db.upgrade import upgrade\nupgrade(sys.argv[1])\n"
        "print('alembic' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True)
    assert ran.stdout.strip() == "False", ran.stderr


class TestSqliteStore(StoreCases):
    """What every database does."""


def test_atoms_keep_every_digit_and_sort_as_numbers(database: Database) -> None:
    values = [0, 5, 40, 2**64, 2**128 - 1, 10**78 - 1]
    with database.write() as store:
        for i, value in enumerate(reversed(values)):
            row = ApiKeyRow(
                id=f"k{i}", account="a", name="n", secret_hash=f"h{i}", hint="", scopes="",
                nonce=str(i), created_ms=1, spent=value,
            )  # fmt: skip
            store.keys.add(row)
    with database.read() as store:
        assert sorted(k.spent for k in rows_of(store, ApiKeyRow)) == values
        rows = store.connection.execute(text("SELECT id FROM api_keys ORDER BY spent")).scalars()
        assert list(rows) == [f"k{i}" for i in reversed(range(len(values)))]


@pytest.mark.parametrize("value", [-1, 10**78])
def test_atoms_out_of_bounds_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match="not between"):
        Atoms().process_bind_param(value, dialect())


def a_node(node_id: str, number: int, provider: str = "p") -> NodeRow:
    return NodeRow(
        id=node_id, provider=provider, number=number, name="n", region="eu", tier="t", gpu_count=1,
        simulated=False, cpu_milli=1, memory_mib=1, storage_mib=1, runtime="process", shared=False,
        interval_ms=1000, state=NodeState.ACTIVE, seen_ms=1, created_ms=1,
    )  # fmt: skip


def a_gpu(uuid: str, node_id: str) -> GpuRow:
    return GpuRow(
        uuid=uuid, node_id=node_id, position=0, model="H100", memory_mib=1, simulated=False
    )


def an_account(address: str = "0x1", next_salt: int = 0) -> AccountRow:
    return AccountRow(address=address, next_salt=next_salt, created_ms=1)


def a_line(text: str = "") -> JobEventRow:
    return JobEventRow(job_id="j", type="log", data={"text": text}, at_ms=1)


def test_a_gpu_uuid_is_in_the_market_once_by_constraint(database: Database) -> None:
    with database.write() as store:
        store.nodes.add(a_node("n1", 1))
        store.nodes.add(a_node("n2", 2, "q"))
        store.gpus.add(a_gpu("GPU-1", "n1"))
    with pytest.raises(AlreadyExists), database.write() as store:
        store.gpus.add(a_gpu("GPU-1", "n2"))
    insert = text("INSERT INTO gpus VALUES ('GPU-1', 'n2', 0, 'H100', 1, 0)")
    with pytest.raises(IntegrityError), database.write() as store:
        store.connection.execute(insert)
    with pytest.raises(AlreadyExists), database.write() as store:
        store.gpus.add(a_gpu("GPU-2", "no such node"))


def test_of_a_lease_and_sequence_one_attestation_is_accepted(world: World) -> None:
    _, lease_id = world.start()

    def row(number: int, state: str) -> AttestationRow:
        return AttestationRow(
            id=f"a{number}", lease_id=lease_id, sequence=0, state=state, ms=0, message={},
            signature="0x", received_ms=1,
        )  # fmt: skip

    with world.database.write() as store:
        store.attestations.add(row(1, "refused"))
        store.attestations.add(row(2, "refused"))
        store.attestations.add(row(3, "accepted"))
    with pytest.raises(AlreadyExists), world.database.write() as store:
        store.attestations.add(row(4, "accepted"))


def test_an_exception_undoes_everything(database: Database) -> None:
    def fail() -> None:
        with database.write() as store:
            store.accounts.add(an_account())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.read() as store:
        assert rows_of(store, AccountRow) == []


def test_nothing_is_visible_before_the_commit(database: Database) -> None:
    with database.write() as writer:
        writer.accounts.add(an_account())
        with database.read() as reader:
            assert reader.accounts.get("0x1") is None
    with database.read() as reader:
        assert reader.accounts.get("0x1") is not None


def test_writers_from_many_threads_lose_no_update(database: Database) -> None:
    with database.write() as store:
        store.marks.add(MarkRow(name="m", value=0))

    def work() -> None:
        for _ in range(20):
            with database.write() as store:
                store.marks.need("m", lock=True).value += 1
                store.order_log.append(OrderEntryRow(kind="tick", subject="", payload={}, at_ms=1))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as store:
        assert store.marks.need("m").value == 160
        assert [row.seq for row in rows_of(store, OrderEntryRow)] == list(range(1, 161))


def test_a_number_of_the_order_log_is_not_given_again_after_a_delete(database: Database) -> None:
    with database.write() as store:
        for _ in range(3):
            store.events.append(a_line())
        assert rows_of(store, JobEventRow) == []
    with database.write() as store:
        assert [row.seq for row in rows_of(store, JobEventRow)] == [1, 2, 3]
        store.session.delete(rows_of(store, JobEventRow, seq=3)[0])
        store.events.append(a_line())
    with database.read() as store:
        assert [row.seq for row in rows_of(store, JobEventRow)] == [1, 2, 4]


def test_rows_of_a_log_are_numbered_as_they_were_appended(database: Database) -> None:
    words = [f"word {i}" for i in range(50)]
    with database.write() as store:
        for word in words:
            store.events.append(a_line(word))
    with database.read() as store:
        rows = store.events.after("j", 0, 100)
        assert [(row.seq, row.data["text"]) for row in rows] == list(enumerate(words, start=1))
        assert [row.seq for row in store.events.after("j", 48, 1)] == [49]
        assert store.events.after("j", 0, 100, "cost") == []


def test_a_row_changed_in_place_is_written_at_the_end(database: Database) -> None:
    with database.write() as store:
        row = store.accounts.add(an_account())
        row.next_salt = 5
    assert row.next_salt == 5
    with database.read() as store:
        assert store.accounts.need("0x1").next_salt == 5


def test_a_lock_reads_anew_and_keeps_what_was_changed_before(database: Database) -> None:
    with database.write() as store:
        store.accounts.add(an_account())
    with database.write() as store:
        row = store.accounts.need("0x1")
        row.next_salt = 5
        store.connection.execute(text("UPDATE accounts SET orders_from = 3"))
        assert store.accounts.get("0x1", lock=True) is row
        assert (row.next_salt, row.orders_from) == (5, 3)


def test_a_change_in_a_transaction_that_reads_is_an_error(database: Database) -> None:
    with database.write() as store:
        store.accounts.add(an_account())
    with pytest.raises(AssertionError, match="only reads"), database.read() as store:
        store.accounts.need("0x1").next_salt = 5
    with database.read() as store:
        assert store.accounts.need("0x1").next_salt == 0


def test_rows_are_held_by_one_statement_and_missing_ones_are_none(database: Database) -> None:
    with database.write() as store:
        for i in range(3):
            store.accounts.add(an_account(f"0x{i}", i))
    with statements(database) as seen, database.read() as store:
        store.accounts.hold(["0x0", "0x1", "0x2", None])
        assert [store.accounts.need(f"0x{i}").next_salt for i in range(3)] == [0, 1, 2]
        assert len(seen) == 1
        assert store.accounts.get("0x9") is store.accounts.get(None) is None
        with pytest.raises(KeyError):
            store.accounts.need("0x9")


def test_a_page_is_newest_first_and_begins_below_its_cursor(database: Database) -> None:
    with database.write() as store:
        for i in range(6):
            store.nodes.add(a_node(f"n{i}", i, "p" if i != 4 else "q"))
    with database.read() as store:
        assert [n.id for n in store.nodes.page("p", (2, None))] == ["n5", "n3"]
        assert [n.id for n in store.nodes.page("p", (9, "n3"))] == ["n2", "n1", "n0"]


def test_blobs_are_written_whole_and_read_back(tmp_path: Path) -> None:
    folder = BlobFolder(tmp_path / "blobs")
    content = b"x" * 600_000
    name = sha256(content).hexdigest()
    for _ in range(2):
        with folder.receive() as upload:
            upload.write(content[:500_000])
            upload.write(content[500_000:])
            assert (upload.keep(), upload.size) == (name, 600_000)
    with folder.receive() as left:
        left.write(b"y")
    assert [p.name for p in (tmp_path / "blobs").iterdir()] == [name[:2]]
    assert b"".join(folder.open(name)) == content
    assert [p.name for p in (tmp_path / "blobs" / name[:2]).iterdir()] == [name]
    with pytest.raises(KeyError):
        folder.open("cd" * 32)


def test_blobs_leave_the_disk_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = BlobFolder(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=FREE_BYTES_MIN))
    with pytest.raises(Unavailable, match="full"), folder.receive() as upload:
        upload.write(b"x")
    assert list(tmp_path.iterdir()) == []
