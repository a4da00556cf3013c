"""How soon a market is ready again: a log of a million rows, 100,000 orders in the snapshot.

The book from the snapshot and 20,000 rows must have the hash of the one from the whole log.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from marketplace.db.store import Database
from marketplace.db.tables import MarkRow, OrderEntryRow
from marketplace.db.upgrade import upgrade
from marketplace.domain.snapshot import book_hash
from marketplace.services.bookkeeper import APPLIED, Bookkeeper
from marketplace.services.orderlog import ASK, ASK_CLOSED
from marketplace.services.ports import Market
from scripts.bench_lib.rows import Row
from settlement.eip712 import ZERO_ADDRESS, Domain, checksum, text32
from settlement.orders import Ask, Prices

RESTING, BEHIND, WHOLE = 100_000, 20_000, 1_000_000
PROVIDERS = 2_000
STARTS = 5
NOW_S = 1_800_000_000
CHUNK = 10_000
SEQ_BASE = 10**6  # salts are unique
MARKET = Market(
    domain=Domain(31_337, "0x" + "ec" * 20),
    token="0x" + "cc" * 20,
    currency="CMP",
    decimals=18,
    fee_bps=100,
    settle_window_s=60,
    opener=ZERO_ADDRESS,
    interval_ms=10_000,
    confirmations=0,
    settle_every_s=5,
    operators=(),
    rpc_url="",
)


def rows() -> list[Row]:
    """Seconds from nothing to a book that is up to date."""
    with tempfile.TemporaryDirectory(prefix="coulomb-restart-") as folder:
        database = Database(f"sqlite:///{Path(folder) / 'market.db'}")
        upgrade(database.url)
        try:
            return _measured(database)
        finally:
            database.close()


def _measured(database: Database) -> list[Row]:
    _fill(database)
    first = Bookkeeper(MARKET, database)
    _set_mark(database, WHOLE - BEHIND)
    replay_s = _seconds_to_ready(first)
    if not first.save():
        raise RuntimeError("no snapshot was due")
    _set_mark(database, WHOLE)
    replay_s += _seconds_to_ready(first)
    wanted, resting = _state_of(first)
    if resting < RESTING:
        raise RuntimeError(f"{resting} orders rest, not {RESTING}")
    starts = []
    for _ in range(STARTS):
        keeper = Bookkeeper(MARKET, database)
        starts.append(_seconds_to_ready(keeper))
        if _state_of(keeper) != (wanted, resting):
            raise RuntimeError("the book from the snapshot differs from the replayed one")
    return [
        Row("replay_1m_rows_s", round(replay_s, 2), "s"),
        Row("snapshot_start_s", round(statistics.median(starts), 2), "s", gate=5.0, aim=2.0),
    ]


def _seconds_to_ready(keeper: Bookkeeper) -> float:
    began = time.perf_counter()
    with keeper.view():
        return time.perf_counter() - began


def _state_of(keeper: Bookkeeper) -> tuple[str, int]:
    with keeper.view() as book:
        return book_hash(book), sum(1 for _ in book.asks()) + sum(1 for _ in book.bids())


def _set_mark(database: Database, seq: int) -> None:
    with database.write() as store:
        mark = store.marks.get(APPLIED)
        if mark is None:
            store.marks.add(MarkRow(name=APPLIED, value=seq))
        else:
            mark.value = seq


def _fill(database: Database) -> None:
    """Asks that come and go, then those that rest, then what came after the snapshot."""
    waiting: list[dict[str, Any]] = []
    for row in _log():
        waiting.append(row)
        if len(waiting) == CHUNK:
            with database.write() as store:
                store.connection.execute(insert(OrderEntryRow), waiting)
            waiting.clear()


def _log() -> Iterator[dict[str, Any]]:
    template = json.dumps(_ask().to_message())
    parties = [checksum(f"0x{number + 1:040x}") for number in range(PROVIDERS)]
    gone = (WHOLE - RESTING - BEHIND) // 2
    for number in range(gone):
        yield _opened(template, parties, number)
        yield _row(ASK_CLOSED, f"ask_{number}", {})
    for number in range(gone, gone + RESTING):
        yield _opened(template, parties, number)
    for number in range(gone + RESTING, gone + RESTING + BEHIND // 2):
        yield _opened(template, parties, number)
        yield _row(ASK_CLOSED, f"ask_{number - RESTING // 2}", {})


def _opened(template: str, parties: list[str], number: int) -> dict[str, Any]:
    message = json.loads(template)
    message["provider"] = parties[number % PROVIDERS]
    message["node"] = number // PROVIDERS
    message["salt"] = str(SEQ_BASE + number)
    message["floor"]["gpuHour"] = str((2 + number % 97) * 10**7)
    facts = {
        "node_id": f"node_{number % PROVIDERS}",
        "region": ("eu", "us", "asia")[number % 3],
        "runtime": "process",
        "simulated": True,
        "verified": False,
        "reliability_milli": 950,
    }
    return _row(ASK, f"ask_{number}", {"ask": message, **facts})


def _row(kind: str, subject: str, payload: dict[str, Any]) -> dict[str, Any]:
    return {"kind": kind, "subject": subject, "payload": payload, "at_ms": NOW_S * 1_000}


def _ask() -> Ask:
    return Ask(
        provider=checksum("0x" + "11" * 20),
        meter=checksum("0x" + "22" * 20),
        opener=ZERO_ADDRESS,
        node=0,
        tier=text32("H100-80GB-SXM"),
        gpu_milli=8_000,
        cpu_milli=64_000,
        memory_mib=1 << 20,
        storage_mib=1 << 20,
        floor=Prices(2 * 10**9),
        min_seconds=1,
        max_seconds=86_400,
        start_limit_seconds=600,
        unit=bytes(32),
        starts_at=0,
        flags=0,
        max_fee_bps=1_000,
        expiry=NOW_S + 10**7,
        salt=0,
    )
