"""The same database promises on PostgreSQL, and many clients and matchers at once on it."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlmodel import SQLModel

from marketplace.db.chain_events import SqlEventStore
from marketplace.db.outbox import SqlOutbox
from marketplace.db.store import Database
from marketplace.db.tables import AttestationRow, GpuRow, JobEventRow, LeaseRow, OrderEntryRow
from marketplace.db.upgrade import upgrade
from marketplace.errors import AlreadyExists
from marketplace.services.bookkeeper import Bookkeeper
from marketplace.services.matcher import Matcher
from settlement.errors import OutboxConflict
from settlement.ports import IntentKind
from tests.databases import rows_of
from tests.market_world import TOKEN, World, world_on
from tests.postgres_server import postgres
from tests.store_cases import EventCases, OutboxCases, StoreCases


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with postgres() as made:
        upgrade(made)
        yield made


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """The one database of this module, emptied."""
    made = Database(url)
    tables = ", ".join(SQLModel.metadata.tables)
    with made.write() as store:
        store.connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
    yield made
    made.close()


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    return world_on(database, tmp_path)


class TestPostgresOutbox(OutboxCases):
    @pytest.fixture
    def store(self, database: Database) -> SqlOutbox:
        return SqlOutbox(database)


class TestPostgresEvents(EventCases):
    @pytest.fixture
    def store(self, database: Database) -> SqlEventStore:
        return SqlEventStore(database)


class TestPostgresStore(StoreCases):
    """What every database does."""


def test_a_job_lives_from_ask_to_receipt(world: World) -> None:
    world.ask()
    world.fund(10)
    job_id, lease_id = world.run(36)
    assert (world.job(job_id).state, world.lease(lease_id).state) == ("succeeded", "closed")
    assert world.chain.balances[world.provider.address] == TOKEN * 25 // 1000
    with pytest.raises(AlreadyExists), world.database.write() as store:
        store.gpus.add(GpuRow(**rows_of(store, GpuRow)[0].model_dump()))


def at_once(work: list[Callable[[], Any]]) -> list[Any]:
    """Run everything at the same time, on a thread each."""
    barrier = threading.Barrier(len(work))

    def run(action: Callable[[], Any]) -> Any:
        barrier.wait()
        return action()

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(run, work))


def test_many_processes_that_enqueue_one_key_get_one_intent(database: Database) -> None:
    payload = {"to": "0x", "data": "0x"}
    outbox = SqlOutbox(database)
    for key in ("one", "two", "three"):
        made = at_once([lambda key=key: outbox.enqueue(IntentKind.REFUND, key, payload)] * 16)
        assert len({intent.id for intent in made}) == 1
    with pytest.raises(OutboxConflict):
        outbox.enqueue(IntentKind.CLOSE, "one", payload)


def test_32_clients_and_4_matchers_never_book_a_gpu_twice(world: World) -> None:
    capacity = 10
    world.ask(world.node(gpus=6))
    world.ask(world.node(gpus=4))
    world.fund(1_000)
    catalog = world.catalog

    def matcher() -> Matcher:
        return Matcher(
            catalog.market,
            world.clock,
            world.database,
            Bookkeeper(catalog.market, world.database),
            catalog.quotes,
            catalog.matcher.calls,
            catalog.matcher.lives,
        )

    matchers = [matcher() for _ in range(4)]
    stop = threading.Event()

    def keep_matching(mine: Matcher) -> None:
        while not stop.is_set():
            mine.tick()

    threads = [threading.Thread(target=keep_matching, args=(m,)) for m in matchers]
    for thread in threads:
        thread.start()
    try:
        ids = at_once([world.submit] * 32)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for mine in matchers:
        while mine.tick():
            continue
    assert len(set(ids)) == 32
    states = Counter(world.job(job_id).state for job_id in ids)
    assert states == {"matched": capacity, "no_match": 32 - capacity}
    with world.database.read() as store:
        leases = rows_of(store, LeaseRow)
        held = Counter((lease.node_id, gpu) for lease in leases for gpu in lease.gpus)
        assert len(held) == capacity
        assert set(held.values()) == {1}
        assert [row.seq for row in rows_of(store, OrderEntryRow)] == list(range(1, 35))


def test_one_accepted_attestation_per_sequence_whoever_is_first(world: World) -> None:
    _, lease_id = world.start()
    world.attest(lease_id, 0, 0)
    world.clock.advance(5)
    answers = at_once(
        [lambda ms=ms: world.attest(lease_id, 1, ms) for ms in range(4_000, 4_016)]  # type: ignore[misc]
    )
    assert sum(refusal is None for _, refusal in answers) == 1
    with world.database.read() as store:
        assert len(rows_of(store, AttestationRow, lease_id=lease_id, state="accepted")) == 2


def test_numbers_of_events_become_visible_in_order(database: Database) -> None:
    seen: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            with database.read() as store:
                last = seen[-1] if seen else 0
                seen.extend(row.seq for row in store.events.after("j", last, 1_000))

    def write() -> None:
        for _ in range(10):
            with database.write() as store:
                store.events.append(JobEventRow(job_id="j", type="log", data={}, at_ms=1))

    watcher = threading.Thread(target=watch)
    watcher.start()
    at_once([write] * 8)
    stop.set()
    watcher.join()
    with database.read() as store:
        written = [row.seq for row in rows_of(store, JobEventRow)]
    assert len(written) == 80
    assert seen == written[: len(seen)]
