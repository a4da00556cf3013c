"""What every OutboxStore and EventStore must do: run on SQLite and PostgreSQL alike.

Subclass and give the fixtures; each test gets a fresh store.
"""

import time
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlmodel import SQLModel

from marketplace.db.queries import BLOB_ROW_BYTES
from marketplace.db.store import CANCEL_KEY, Database, Tally, try_key
from marketplace.db.upgrade import upgrade
from settlement.errors import OutboxConflict
from settlement.events import Deposited, Settled, SettledEntry
from settlement.ports import (
    BlockRef,
    EventStore,
    IntentKind,
    IntentState,
    LoggedEvent,
    OutboxStore,
    later_key,
)
from tests.market_world import World

A, B = "0x" + "aa" * 20, "0x" + "bb" * 20
PAYLOAD: dict[str, Any] = {"to": A, "data": "0x01"}


class OutboxCases:
    """Promises of an OutboxStore."""

    def signed(self, store: OutboxStore, key: str = "k", nonce: int = 0) -> int:
        intent = store.enqueue(IntentKind.OPEN, key, PAYLOAD)
        store.mark_signed(intent.id, A, nonce, b"\x02raw", f"0x{nonce:064x}")
        return intent.id

    def test_enqueue_gives_a_pending_intent(self, store: OutboxStore) -> None:
        intent = store.enqueue(IntentKind.CLOSE, "k", PAYLOAD)
        assert (intent.kind, intent.key, intent.payload) == (IntentKind.CLOSE, "k", PAYLOAD)
        assert (intent.state, intent.nonce, intent.raw) == (IntentState.PENDING, None, None)
        assert intent.created_at.tzinfo is not None
        assert store.get(intent.id) == intent

    def test_enqueue_again_returns_the_first(self, store: OutboxStore) -> None:
        first = store.enqueue(IntentKind.OPEN, "k", PAYLOAD)
        assert store.enqueue(IntentKind.OPEN, "k", dict(PAYLOAD)) == first
        assert [i.id for i in store.pending(10)] == [first.id]

    def test_enqueue_again_with_another_payload_is_refused(self, store: OutboxStore) -> None:
        store.enqueue(IntentKind.OPEN, "k", PAYLOAD)
        with pytest.raises(OutboxConflict):
            store.enqueue(IntentKind.OPEN, "k", {**PAYLOAD, "data": "0x02"})
        with pytest.raises(OutboxConflict):
            store.enqueue(IntentKind.CLOSE, "k", PAYLOAD)

    def test_pending_is_oldest_first_and_bounded(self, store: OutboxStore) -> None:
        ids = [store.enqueue(IntentKind.OPEN, f"k{i}", PAYLOAD).id for i in range(4)]
        assert [i.id for i in store.pending(3)] == ids[:3]

    def test_pending_puts_what_pays_before_opens_and_cancels(self, store: OutboxStore) -> None:
        kinds = [IntentKind.CANCEL, IntentKind.OPEN, *IntentKind, IntentKind.CANCEL]
        added = [store.enqueue(kind, f"k{i}", PAYLOAD) for i, kind in enumerate(kinds)]
        late = (IntentKind.CANCEL, IntentKind.OPEN, IntentKind.WITHDRAW, IntentKind.TOP_UP)
        first = [i.id for i in added if i.kind not in late]
        last = [i.id for i in added if i.kind in late]
        assert [i.id for i in store.pending(len(kinds))] == [*first, *last]
        assert [i.id for i in store.pending(2)] == first[:2]

    def test_signed_bytes_nonce_and_hash_are_stored_together(self, store: OutboxStore) -> None:
        number = self.signed(store, nonce=7)
        intent = store.get(number)
        assert (intent.state, intent.sender, intent.nonce) == (IntentState.SIGNED, A, 7)
        assert (intent.raw, intent.tx_hash) == (b"\x02raw", f"0x{7:064x}")
        assert list(store.pending(10)) == []
        assert store.next_nonce(A) == 8
        assert store.next_nonce(B) is None

    def test_a_nonce_is_given_once_per_sender(self, store: OutboxStore) -> None:
        self.signed(store, "k", nonce=7)
        other = store.enqueue(IntentKind.OPEN, "other", PAYLOAD)
        with pytest.raises(OutboxConflict):
            store.mark_signed(other.id, A, 7, b"", "0x01")
        assert store.get(other.id).state is IntentState.PENDING
        store.mark_signed(other.id, B, 7, b"", "0x01")
        owner = store.by_nonce(B, 7)
        assert owner is not None
        assert owner.id == other.id
        assert store.by_nonce(B, 8) is None

    def test_an_intent_is_signed_once(self, store: OutboxStore) -> None:
        number = self.signed(store)
        with pytest.raises(OutboxConflict):
            store.mark_signed(number, A, 1, b"", "0x01")
        assert store.get(number).nonce == 0

    def test_the_way_to_final(self, store: OutboxStore) -> None:
        number = self.signed(store)
        store.mark_sent(number)
        store.mark_sent(number)
        assert store.get(number).state is IntentState.SENT
        store.mark_confirmed(number, "0xaa", 5, "0xbb")
        store.mark_confirmed(number, "0xaa", 6, "0xcc")
        intent = store.get(number)
        assert (intent.state, intent.mined_hash) == (IntentState.CONFIRMED, "0xaa")
        assert (intent.block_number, intent.block_hash) == (6, "0xcc")
        assert [i.id for i in store.in_flight(A)] == [number]
        store.mark_final(number)
        assert store.get(number).state is IntentState.FINAL
        assert list(store.in_flight(A)) == []
        assert store.next_nonce(A) == 1

    def test_a_reorg_takes_confirmed_back_to_sent(self, store: OutboxStore) -> None:
        number = self.signed(store)
        store.mark_confirmed(number, "0xaa", 5, "0xbb")
        store.mark_unconfirmed(number)
        intent = store.get(number)
        assert (intent.state, intent.mined_hash) == (IntentState.SENT, None)
        assert (intent.block_number, intent.block_hash) == (None, None)
        assert intent.raw == b"\x02raw"

    def test_a_replacement_keeps_nonce_and_remembers_hashes(self, store: OutboxStore) -> None:
        number = self.signed(store, nonce=3)
        store.mark_sent(number)
        store.mark_replaced(number, f"0x{3:064x}", b"two", "0x02")
        store.mark_replaced(number, "0x02", b"three", "0x03")
        intent = store.get(number)
        assert (intent.state, intent.nonce, intent.raw) == (IntentState.SIGNED, 3, b"three")
        assert (intent.tx_hash, intent.replaced) == ("0x03", (f"0x{3:064x}", "0x02"))
        with pytest.raises(OutboxConflict):
            store.mark_replaced(number, "0x02", b"four", "0x04")

    def test_in_flight_is_by_nonce(self, store: OutboxStore) -> None:
        late, early = self.signed(store, "late", 9), self.signed(store, "early", 2)
        assert [i.id for i in store.in_flight(A)] == [early, late]
        assert list(store.in_flight(B)) == []

    @pytest.mark.parametrize("step", ["mark_sent", "mark_unconfirmed", "mark_final"])
    def test_a_step_from_the_wrong_state_is_refused(self, store: OutboxStore, step: str) -> None:
        intent = store.enqueue(IntentKind.OPEN, "k", PAYLOAD)
        with pytest.raises(OutboxConflict):
            getattr(store, step)(intent.id)

    def test_final_is_final(self, store: OutboxStore) -> None:
        number = self.signed(store)
        store.mark_confirmed(number, "0xaa", 5, "0xbb")
        store.mark_final(number)
        with pytest.raises(OutboxConflict):
            store.mark_dead(number, "no")
        with pytest.raises(OutboxConflict):
            store.mark_confirmed(number, "0xaa", 6, "0xcc")

    def test_dead_keeps_its_reason_and_its_nonce(self, store: OutboxStore) -> None:
        number = self.signed(store, nonce=4)
        store.mark_dead(number, "NodeFull(0, 1000)")
        intent = store.get(number)
        assert (intent.state, intent.error) == (IntentState.DEAD, "NodeFull(0, 1000)")
        assert store.next_nonce(A) == 5
        assert list(store.in_flight(A)) == []

    def test_attempts_are_counted(self, store: OutboxStore) -> None:
        intent = store.enqueue(IntentKind.OPEN, "k", PAYLOAD)
        assert store.note_attempt(intent.id, "one") == 1
        assert store.note_attempt(intent.id, "two") == 2
        assert store.get(intent.id).error == "two"
        assert store.get(intent.id).state is IntentState.PENDING

    def test_amend_narrows_and_sets_aside(self, store: OutboxStore) -> None:
        intent = store.enqueue(IntentKind.SETTLE, "k", PAYLOAD)
        store.amend(intent.id, {**PAYLOAD, "data": "0x02"}, {**PAYLOAD, "data": "0x03"})
        narrowed, later = store.pending(10)
        assert (narrowed.key, narrowed.payload["data"]) == ("k", "0x02")
        assert (later.key, later.payload["data"]) == (later_key("k", later.payload), "0x03")
        assert later.kind is IntentKind.SETTLE
        assert store.enqueue(IntentKind.SETTLE, "k", PAYLOAD).id == intent.id

    def test_amend_again_sets_something_else_aside(self, store: OutboxStore) -> None:
        intent = store.enqueue(IntentKind.SETTLE, "k", PAYLOAD)
        one, other = ({**PAYLOAD, "data": data} for data in ("0x03", "0x04"))
        store.amend(intent.id, PAYLOAD, one)
        store.amend(intent.id, PAYLOAD, other)
        store.amend(intent.id, PAYLOAD, other)
        _, first, second = store.pending(10)
        assert [first.payload, second.payload] == [one, other]
        store.amend(first.id, PAYLOAD, {**PAYLOAD, "data": "0x05"})
        assert len(store.pending(10)[-1].key) == len(first.key)

    def test_amend_after_signing_is_refused_whole(self, store: OutboxStore) -> None:
        number = self.signed(store)
        with pytest.raises(OutboxConflict):
            store.amend(number, PAYLOAD, PAYLOAD)
        assert list(store.pending(10)) == []

    def test_an_unknown_intent_is_a_key_error(self, store: OutboxStore) -> None:
        with pytest.raises(KeyError):
            store.get(12345)


def block(number: int, branch: int = 0) -> BlockRef:
    """Block `number` of one of several branches."""
    return BlockRef(
        number, f"0x{branch:02x}{number:062x}", f"0x{branch:02x}{number - 1:062x}", 100 + number
    )


def deposit(at: BlockRef, index: int = 0) -> LoggedEvent:
    return LoggedEvent(at.number, at.hash, f"0x{index:064x}", index, Deposited(A, 2**100 + index))


class EventCases:
    """Promises of an EventStore."""

    def test_an_empty_store_has_no_cursor(self, store: EventStore) -> None:
        assert store.cursor() is None
        assert list(store.blocks(10)) == []
        assert list(store.events()) == []

    def test_append_moves_the_cursor_and_keeps_events(self, store: EventStore) -> None:
        store.append(block(1), [deposit(block(1), 0), deposit(block(1), 3)])
        store.append(block(2), [])
        assert store.cursor() == block(2)
        assert list(store.events()) == [deposit(block(1), 0), deposit(block(1), 3)]
        assert list(store.blocks(1)) == [block(2)]

    def test_a_range_may_skip_blocks(self, store: EventStore) -> None:
        store.append(block(9), [deposit(block(3)), deposit(block(7))])
        assert store.cursor() == block(9)
        assert [e.block_number for e in store.events()] == [3, 7]

    def test_rollback_forgets_what_is_above(self, store: EventStore) -> None:
        for number in (1, 2, 3):
            store.append(block(number), [deposit(block(number))])
        store.rollback(1)
        assert store.cursor() == block(1)
        assert [e.block_number for e in store.events()] == [1]
        store.append(block(2, branch=1), [deposit(block(2, branch=1))])
        assert [e.block_hash for e in store.events()] == [block(1).hash, block(2, 1).hash]

    def test_rollback_below_everything_empties_it(self, store: EventStore) -> None:
        store.append(block(5), [deposit(block(5))])
        store.rollback(-1)
        assert store.cursor() is None
        assert list(store.events()) == []

    def test_events_of_one_lease_are_found_inside_batches(self, store: EventStore) -> None:
        one, two = b"\x01" * 16, b"\x02" * 16
        batch = Settled(B, (SettledEntry(one, 5), SettledEntry(two, 2**39)))
        logged = LoggedEvent(1, block(1).hash, "0x00", 1, batch)
        store.append(block(1), [deposit(block(1)), logged])
        assert list(store.events(one)) == [logged]
        assert list(store.events(two)) == [logged]
        assert list(store.events(b"\x03" * 16)) == []


class StoreCases:
    """Promises of a database, given as `database`, `world` and `url`."""

    def test_migrations_give_the_declared_schema_and_again_change_nothing(
        self, database: Database, url: str
    ) -> None:
        upgrade(url)
        with database.engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, SQLModel.metadata) == []

    def test_it_counts_what_operators_watch(self, world: World) -> None:
        """One job that runs, one that waits and two asks, of which one expires."""

        def tally() -> Tally:
            with world.database.read() as store:
                return store.tally(world.clock() // 1000)

        before = int(time.time() * 1000)
        assert tally() == Tally({}, {}, {}, None, 0)
        world.fund(100)
        world.ask(price="2.50", expires_in="60s")
        job_id = world.queue()
        waiting = tally()
        assert (waiting.jobs, waiting.leases) == ({"matched": 1}, {"opening": 1})
        assert (waiting.intents, waiting.asks_resting) == ({"pending": 1}, 1)
        assert before <= (waiting.oldest_intent_ms or 0) <= time.time() * 1000
        world.chain.mine()
        assert world.job(job_id).state == "starting"
        world.ask(price="9.00")
        world.submit()
        assert tally() == Tally({"starting": 1, "queued": 1}, {"active": 1}, {"final": 1}, None, 2)
        world.clock.advance(60)
        assert tally().asks_resting == 1

    def test_it_adds_up_an_account(self, world: World) -> None:
        """Salts that no Cancel voids, and bytes uploaded."""
        world.ask()
        world.ask(provider=world.buyer)
        world.fund(100)
        world.submit()
        provider, buyer = world.provider.address, world.buyer.address
        with world.database.write() as store:
            assert store.order_salts(provider, 0, 9) == (0, 0)
            assert store.order_salts(buyer, 0, 9) == (0, 1)
            assert store.order_salts(buyer, 1, 9) == (1, 1)
            assert store.order_salts(buyer, 2, 9) is None
            key = CANCEL_KEY.format(account=buyer, salt=1, and_older=0)
            first = store.enqueue(IntentKind.CANCEL, key, PAYLOAD)
        with world.database.write() as store:
            assert store.order_salts(buyer, 0, 9) == (0, 0)
        world.chain.outbox.mark_dead(first.id, "refused")
        with world.database.write() as store:
            assert store.order_salts(buyer, 0, 9) == (0, 1)
            store.enqueue(IntentKind.CANCEL, try_key(key, 2), PAYLOAD)
        caller, day = world.caller(world.buyer), world.clock()
        with world.database.write() as store:
            assert store.order_salts(buyer, 0, 9) == (0, 0)
            world.catalog.blobs.own(store, caller, "a" * 64, 10)
            world.catalog.blobs.own(store, caller, "b" * 64, 5)
            assert store.blobs.bytes_since(buyer, day) == 15 + 2 * BLOB_ROW_BYTES
            assert (
                store.blobs.bytes_since(buyer, day + 1) == store.blobs.bytes_since(provider, 0) == 0
            )
