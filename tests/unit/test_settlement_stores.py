"""The fakes keep the promises that the database adapters must keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from settlement.errors import OutboxConflict
from settlement.ports import IntentKind, IntentState
from tests.fakes_settlement import MemoryEvents, MemoryOutbox
from tests.sqlite_outbox import SqliteOutbox
from tests.store_cases import PAYLOAD, A, EventCases, OutboxCases, block, deposit


class TestMemoryOutbox(OutboxCases):
    @pytest.fixture
    def store(self) -> MemoryOutbox:
        return MemoryOutbox()


class TestSqliteOutbox(OutboxCases):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[SqliteOutbox]:
        store = SqliteOutbox(tmp_path / "outbox.db")
        yield store
        store.close()


class TestMemoryEvents(EventCases):
    @pytest.fixture
    def store(self) -> MemoryEvents:
        return MemoryEvents()


def test_sqlite_outbox_reopened_has_everything(tmp_path: Path) -> None:
    store = SqliteOutbox(tmp_path / "outbox.db")
    first = store.enqueue(IntentKind.SETTLE, "k", PAYLOAD)
    store.amend(first.id, {**PAYLOAD, "data": "0x02"}, {**PAYLOAD, "data": "0x03"})
    store.mark_signed(first.id, A, 3, b"raw", "0x01")
    store.mark_replaced(first.id, "0x01", b"more", "0x02")
    before = dict(store.intents)
    store.close()
    again = SqliteOutbox(tmp_path / "outbox.db")
    assert again.intents == before
    assert again.get(first.id).state is IntentState.SIGNED
    assert again.enqueue(IntentKind.SETTLE, "k", PAYLOAD).id == first.id
    with pytest.raises(OutboxConflict):
        again.mark_signed(2, A, 3, b"", "0x09")
    again.close()


def test_memory_events_out_of_order_are_refused() -> None:
    store = MemoryEvents()
    with pytest.raises(ValueError, match="out of order"):
        store.append(block(2), [deposit(block(3))])
