"""The database: settings, constraints, types, migrations, and the store contracts on SQLite."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.dialects.sqlite import dialect
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel

from marketplace.db.blob_files import FREE_BYTES_MIN, BlobFolder
from marketplace.db.chain_events import SqlEventStore
from marketplace.db.outbox import SqlOutbox
from marketplace.db.store import PAIRS, Database, table_of
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
from marketplace.db.upgrade import upgrade
from marketplace.errors import Duplicate, Unavailable
from marketplace.server import operations
from marketplace.server.settings import Settings
from settlement.ports import IntentKind
from settlement.reconcile import FindingKind
from tests.databases import rows_of
from tests.market_world import sqlite_world
from tests.store_cases import EventCases, OutboxCases


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


def test_commits_are_durable_and_constraints_are_on(database: Database) -> None:
    with database.read() as store:
        connection = store.connection

        def pragma(name: str) -> Any:
            return connection.execute(text(f"PRAGMA {name}")).scalar_one()

        assert pragma("journal_mode") == "wal"
        assert pragma("synchronous") == 2
        assert pragma("foreign_keys") == 1
        assert pragma("busy_timeout") == 10_000


def test_migrations_from_empty_give_the_declared_schema(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []


def test_upgrading_again_changes_nothing(url: str) -> None:
    upgrade(url)
    upgrade(url)


@pytest.mark.parametrize("record", list(PAIRS), ids=lambda r: r.__name__)
def test_rows_have_the_fields_of_their_records_in_order(record: type[Any]) -> None:
    table = table_of(PAIRS[record])
    assert [c.name for c in table.columns] == [f.name for f in fields(record)]
    assert [c.name for c in table.primary_key.columns] == [fields(record)[0].name]


def test_atoms_keep_every_digit_and_sort_as_numbers(database: Database) -> None:
    values = [0, 5, 40, 2**64, 2**128 - 1, 10**78 - 1]
    with database.write() as store:
        for i, value in enumerate(reversed(values)):
            row = ApiKeyRow(f"k{i}", "a", "n", f"h{i}", "", "", str(i), 1, None, None, None, value)
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
        id=node_id,
        provider=provider,
        number=number,
        name="n",
        region="eu",
        tier="t",
        gpu_count=1,
        simulated=False,
        cpu_milli=1,
        memory_mib=1,
        storage_mib=1,
        runtime="process",
        shared=False,
        interval_ms=1000,
        state="active",
        seen_ms=1,
        created_ms=1,
    )


def test_a_gpu_uuid_is_in_the_market_once_by_constraint(database: Database) -> None:
    with database.write() as store:
        store.nodes.add(a_node("n1", 1))
        store.nodes.add(a_node("n2", 2, "q"))
        store.gpus.add(GpuRow("GPU-1", "n1", 0, "H100", 1, False))
    with pytest.raises(Duplicate), database.write() as store:
        store.gpus.add(GpuRow("GPU-1", "n2", 0, "H100", 1, False))
    insert = text("INSERT INTO gpus VALUES ('GPU-1', 'n2', 0, 'H100', 1, 0)")
    with pytest.raises(IntegrityError), database.write() as store:
        store.connection.execute(insert)
    with pytest.raises(Duplicate), database.write() as store:
        store.gpus.add(GpuRow("GPU-2", "no such node", 0, "H100", 1, False))


def test_of_a_lease_and_sequence_one_attestation_is_accepted(tmp_path: Path) -> None:
    world = sqlite_world(tmp_path)
    world.ask()
    world.fund()
    _, lease_id = world.open()

    def row(number: int, state: str) -> AttestationRow:
        return AttestationRow(f"a{number}", lease_id, 0, state, None, 0, {}, "0x", 1, None, None)

    with world.database.write() as store:
        store.attestations.add(row(1, "refused"))
        store.attestations.add(row(2, "refused"))
        store.attestations.add(row(3, "accepted"))
    with pytest.raises(Duplicate), world.database.write() as store:
        store.attestations.add(row(4, "accepted"))
    world.database.close()


def test_an_exception_undoes_everything(database: Database) -> None:
    def fail() -> None:
        with database.write() as store:
            store.accounts.add(AccountRow("0x1", 0, 1))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.read() as store:
        assert rows_of(store, AccountRow) == []


def test_nothing_is_visible_before_the_commit(database: Database) -> None:
    with database.write() as writer:
        writer.accounts.add(AccountRow("0x1", 0, 1))
        with database.read() as reader:
            assert reader.accounts.get("0x1") is None
    with database.read() as reader:
        assert reader.accounts.get("0x1") is not None


def test_writers_from_many_threads_lose_no_update(database: Database) -> None:
    with database.write() as store:
        store.marks.add(MarkRow("m", 0))

    def work() -> None:
        for _ in range(20):
            with database.write() as store:
                mark = store.marks.get("m", lock=True)
                store.marks.put(MarkRow("m", mark.value + 1))
                store.order_log.append(OrderEntryRow(0, "tick", "", {}, 1))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as store:
        assert store.marks.get("m").value == 160
        assert [row.seq for row in rows_of(store, OrderEntryRow)] == list(range(1, 161))


def test_a_number_of_the_order_log_is_not_given_again_after_a_delete(database: Database) -> None:
    with database.write() as store:
        for _ in range(3):
            store.events.append(JobEventRow(0, "j", "log", {}, 1))
        assert rows_of(store, JobEventRow) == []
    with database.write() as store:
        assert [row.seq for row in rows_of(store, JobEventRow)] == [1, 2, 3]
        store.events.remove(seq=3)
        store.events.append(JobEventRow(0, "j", "log", {}, 1))
    with database.read() as store:
        assert [row.seq for row in rows_of(store, JobEventRow)] == [1, 2, 4]


def test_find_filters_by_null_list_bounds_and_order(database: Database) -> None:
    with database.write() as store:
        for i in range(6):
            store.accounts.add(AccountRow(f"0x{i}", i, 1))
    with database.read() as store:
        find = store.accounts.find
        assert [a.address for a in find(after="0x1", before="0x4")] == ["0x2", "0x3"]
        assert [a.address for a in find(newest=True, limit=2)] == ["0x5", "0x4"]
        assert [a.address for a in find(next_salt=(1, 4))] == ["0x1", "0x4"]
        assert [a.address for a in find(least={"next_salt": 4})] == ["0x4", "0x5"]
        assert find(address=None) == []
        with pytest.raises(KeyError):
            store.accounts.put(AccountRow("0x9", 1, 1))


def test_blobs_are_written_whole_and_read_back(tmp_path: Path) -> None:
    folder = BlobFolder(tmp_path / "blobs")
    name = "ab" * 32
    for _ in range(2):
        with folder.draft() as draft:
            draft.write(b"x" * 500_000)
            draft.write(b"x" * 100_000)
            draft.keep(name)
    with folder.draft() as left:
        left.write(b"y")
    assert [p.name for p in (tmp_path / "blobs").iterdir()] == ["ab"]
    assert b"".join(folder.open(name)) == b"x" * 600_000
    assert [p.name for p in (tmp_path / "blobs" / "ab").iterdir()] == [name]
    with pytest.raises(KeyError):
        folder.open("cd" * 32)


def test_blobs_leave_the_disk_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = BlobFolder(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=FREE_BYTES_MIN))
    with pytest.raises(Unavailable, match="full"), folder.draft() as draft:
        draft.write(b"x")
    assert list(tmp_path.iterdir()) == []
