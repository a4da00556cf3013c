"""The in-memory outbox on a SQLite file: what was stored survives kill -9."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from settlement.ports import Intent, IntentKind, IntentState
from tests.fakes_settlement import MemoryOutbox


class SqliteOutbox(MemoryOutbox):
    """Every change is one durable transaction; one process at a time."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("CREATE TABLE IF NOT EXISTS intent (id INTEGER PRIMARY KEY, row, first)")
        for number, row, first in self._db.execute("SELECT id, row, first FROM intent"):
            self.intents[number] = _read(json.loads(row))
            self.first_payloads[self.intents[number].key] = json.loads(first)

    def close(self) -> None:
        self._db.close()

    def enqueue(self, kind: IntentKind, key: str, payload: dict[str, Any]) -> Intent:
        with self._commit():
            return super().enqueue(kind, key, payload)

    def amend(self, intent_id: int, payload: dict[str, Any], later: dict[str, Any] | None) -> None:
        with self._commit():
            super().amend(intent_id, payload, later)

    def _set(self, intent_id: int, **changes: Any) -> None:
        with self._commit():
            super()._set(intent_id, **changes)

    @contextmanager
    def _commit(self) -> Iterator[None]:
        """Write what changed inside, once, at the outermost level."""
        if self._db.in_transaction:
            yield
            return
        before = dict(self.intents)
        with self._db:  # commits, or rolls back what raised
            self._db.execute("BEGIN IMMEDIATE")
            yield
            for number, intent in self.intents.items():
                if before.get(number) != intent:
                    row, first = json.dumps(_write(intent)), self.first_payloads[intent.key]
                    self._db.execute(
                        "INSERT OR REPLACE INTO intent VALUES (?, ?, ?)",
                        (number, row, json.dumps(first)),
                    )


def _write(intent: Intent) -> dict[str, Any]:
    raw = None if intent.raw is None else intent.raw.hex()
    return asdict(intent) | {"raw": raw, "created_at": intent.created_at.isoformat()}


def _read(row: dict[str, Any]) -> Intent:
    return Intent(
        **row
        | {
            "kind": IntentKind(row["kind"]),
            "state": IntentState(row["state"]),
            "raw": None if row["raw"] is None else bytes.fromhex(row["raw"]),
            "replaced": tuple(row["replaced"]),
            "created_at": datetime.fromisoformat(row["created_at"]),
        }
    )
