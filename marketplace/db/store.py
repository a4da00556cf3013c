"""Records in tables, by SQLAlchemy Core: one generic repository and what does not fit it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    String,
    Table,
    and_,
    cast,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    text,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel

from marketplace.db import outbox, tables
from marketplace.services import records
from marketplace.services.common import try_key
from marketplace.services.ports import BLOB_ROW_BYTES, CANCEL_KEY, CANCEL_TRIES, Duplicate, Tally
from settlement.events import event_from_json
from settlement.ports import BlockRef, Intent, IntentKind, IntentState, LoggedEvent

R = TypeVar("R")

PAIRS: dict[type[Any], type[SQLModel]] = {
    records.Account: tables.AccountRow,
    records.ApiKey: tables.ApiKeyRow,
    records.Node: tables.NodeRow,
    records.Gpu: tables.GpuRow,
    records.AskRecord: tables.AskRow,
    records.BidRecord: tables.BidRow,
    records.JobRecord: tables.JobRow,
    records.OrderEntry: tables.OrderEntryRow,
    records.FillRecord: tables.FillRow,
    records.LeaseRecord: tables.LeaseRow,
    records.AttestationRecord: tables.AttestationRow,
    records.VoucherRecord: tables.VoucherRow,
    records.ReceiptRecord: tables.ReceiptRow,
    records.JobEvent: tables.JobEventRow,
    records.Blob: tables.BlobRow,
    records.IdempotentReply: tables.IdempotentReplyRow,
    records.Mark: tables.MarkRow,
}


def table_of(row: type[SQLModel]) -> Table:
    """The Core table behind a row class."""
    found = SQLModel.metadata.tables[str(row.__tablename__)]
    return found


def lock_id(name: str) -> int:
    """A stable number for an advisory lock."""
    return zlib.crc32(name.encode())


def logged_event(row: Any) -> LoggedEvent:
    """A row of `chain_events` as a value."""
    return LoggedEvent(
        block_number=row.block_number,
        block_hash=row.block_hash,
        tx_hash=row.tx_hash,
        log_index=row.log_index,
        event=event_from_json(row.name, row.document),
    )


class SqlTable(Generic[R]):
    """One table as records. Implements `marketplace.services.ports.Table`."""

    def __init__(self, connection: Connection, record: type[R]) -> None:
        self._connection = connection
        self._record = record
        self._table = table_of(PAIRS[record])
        self._names = [f.name for f in fields(record)]  # type: ignore[arg-type]
        self._columns = [self._table.c[name] for name in self._names]
        self._key = self._columns[0]

    def get(self, key: str, *, lock: bool = False) -> R | None:
        """The row with this key; `lock` is FOR UPDATE, which SQLite's one writer implies."""
        query = select(*self._columns).where(self._key == key)
        row = self._connection.execute(query.with_for_update() if lock else query).first()
        return None if row is None else self._record(*row)

    def one(self, **equal: Any) -> R | None:
        """The first row that matches."""
        return next(iter(self.find(limit=1, **equal)), None)

    def find(
        self,
        *,
        limit: int | None = None,
        newest: bool = False,
        before: Any = None,
        after: Any = None,
        least: dict[str, int] | None = None,
        **equal: Any,
    ) -> list[R]:
        """Rows in key order, exclusive of `before` and `after`."""
        query = select(*self._columns).where(self._where(equal))
        for name, value in (least or {}).items():
            query = query.where(self._table.c[name] >= value)
        if before is not None:
            query = query.where(self._key < before)
        if after is not None:
            query = query.where(self._key > after)
        query = query.order_by(self._key.desc() if newest else self._key.asc()).limit(limit)
        return [self._record(*row) for row in self._connection.execute(query)]

    def add(self, record: R) -> R:
        """Insert one record."""
        try:
            self._connection.execute(insert(self._table).values(self._values(record)))
        except IntegrityError as error:
            raise Duplicate(self._table.name) from error
        return record

    def ensure(self, record: R) -> None:
        """Insert unless one of its unique values is there already."""
        dialect = postgresql if self._connection.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(self._table).values(self._values(record))
        self._connection.execute(statement.on_conflict_do_nothing())

    def put(self, record: R) -> None:
        """Write every member of a record over its row."""
        values = self._values(record)
        key = values.pop(self._names[0])
        try:
            done = self._connection.execute(
                update(self._table).where(self._key == key).values(values)
            )
        except IntegrityError as error:
            raise Duplicate(self._table.name) from error
        if done.rowcount != 1:
            raise KeyError(key)

    def remove(self, **equal: Any) -> int:
        """Delete what matches."""
        return self._connection.execute(delete(self._table).where(self._where(equal))).rowcount

    def _values(self, record: R) -> dict[str, Any]:
        return {name: getattr(record, name) for name in self._names}

    def _where(self, equal: dict[str, Any]) -> ColumnElement[bool]:
        terms: list[ColumnElement[bool]] = []
        for name, value in equal.items():
            column = self._table.c[name]
            if value is None:
                terms.append(column.is_(None))
            elif isinstance(value, tuple):
                terms.append(column.in_(value))
            else:
                terms.append(column == value)
        return and_(true(), *terms)


class SqlLog(SqlTable[R]):
    """One numbered table. Implements `marketplace.services.ports.Log`.

    Rows wait until the transaction ends. Then one transaction at a time numbers its rows and
    commits, so numbers become visible in order; having all its row locks by then, it waits for
    nobody who waits for it.
    """

    def __init__(self, connection: Connection, record: type[R]) -> None:
        super().__init__(connection, record)
        self._waiting: list[dict[str, Any]] = []

    def append(self, record: R) -> None:
        """Add a row when this transaction ends."""
        values = self._values(record)
        del values["seq"]
        self._waiting.append(values)

    @property
    def has_waiting(self) -> bool:
        """Whether rows wait for the end."""
        return bool(self._waiting)

    def flush(self) -> None:
        """Write the waiting rows."""
        for values in self._waiting:
            self._connection.execute(insert(self._table).values(values))
        self._waiting.clear()


class SqlStore:
    """Every table in one transaction. Implements `marketplace.services.ports.Store`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.accounts = SqlTable(connection, records.Account)
        self.keys = SqlTable(connection, records.ApiKey)
        self.nodes = SqlTable(connection, records.Node)
        self.gpus = SqlTable(connection, records.Gpu)
        self.asks = SqlTable(connection, records.AskRecord)
        self.bids = SqlTable(connection, records.BidRecord)
        self.jobs = SqlTable(connection, records.JobRecord)
        self.order_log = SqlLog(connection, records.OrderEntry)
        self.fills = SqlTable(connection, records.FillRecord)
        self.leases = SqlTable(connection, records.LeaseRecord)
        self.attestations = SqlTable(connection, records.AttestationRecord)
        self.vouchers = SqlTable(connection, records.VoucherRecord)
        self.receipts = SqlTable(connection, records.ReceiptRecord)
        self.events = SqlLog(connection, records.JobEvent)
        self.blobs = SqlTable(connection, records.Blob)
        self.replies = SqlTable(connection, records.IdempotentReply)
        self.marks = SqlTable(connection, records.Mark)

    def finish(self) -> None:
        """What is left to do before the commit: number what was appended."""
        logs = [log for log in (self.order_log, self.events) if log.has_waiting]
        if logs and self.connection.dialect.name == "postgresql":
            self.connection.execute(select(func.pg_advisory_xact_lock(lock_id("logs"))))
        for log in logs:
            log.flush()

    def enqueue(self, kind: IntentKind, key: str, payload: dict[str, Any]) -> Intent:
        """Add an intent in this transaction; the same key and payload again returns the first."""
        return outbox.enqueue(self.connection, kind, key, payload)

    def intent(self, key: str) -> Intent | None:
        """The intent with this key."""
        return outbox.by_key(self.connection, key)

    def chain_events(self, lease_no: str) -> Sequence[LoggedEvent]:
        """The events of one lease in chain order."""
        event, link = table_of(tables.ChainEventRow), table_of(tables.ChainEventLeaseRow)
        query = (
            select(event)
            .join(link, link.c.event_id == event.c.id)
            .where(link.c.lease_no == lease_no)
            .order_by(event.c.block_number, event.c.log_index)
        )
        return [logged_event(row) for row in self.connection.execute(query)]

    def chain_cursor(self) -> BlockRef | None:
        """The newest block the indexer has taken in."""
        block = table_of(tables.ChainBlockRow)
        query = select(block.c.number, block.c.hash, block.c.parent_hash, block.c.timestamp)
        row = self.connection.execute(query.order_by(block.c.number.desc()).limit(1)).first()
        return None if row is None else BlockRef(*row)

    def tally(self, now_s: int) -> Tally:
        """Counts for operators: each from an index on the state."""
        asks = table_of(tables.AskRow)
        resting = select(func.count()).where(asks.c.state == "open", asks.c.expiry_s > now_s)
        return Tally(
            jobs=self._by_state(table_of(tables.JobRow)),
            leases=self._by_state(table_of(tables.LeaseRow)),
            intents=self._by_state(outbox.INTENTS),
            oldest_intent_ms=outbox.oldest_ms(self.connection),
            asks_resting=self.connection.execute(resting).scalar_one(),
        )

    def _by_state(self, table: Table) -> dict[str, int]:
        query = select(table.c.state, func.count()).group_by(table.c.state)
        return {state: count for state, count in self.connection.execute(query)}

    def forget_replies(self, before_ms: int) -> int:
        """Delete stored answers older than a time; returns how many."""
        table = table_of(tables.IdempotentReplyRow)
        return self.connection.execute(delete(table).where(table.c.created_ms < before_ms)).rowcount

    def order_salts(self, account: str, lowest: int, highest: int) -> tuple[int, int] | None:
        """Least and greatest salt of the account's orders in a range that no Cancel voids."""
        asks, bids = table_of(tables.AskRow), table_of(tables.BidRow)
        intents = table_of(tables.IntentRow)
        asked = cast(asks.c.message["salt"].as_string(), BigInteger).label("salt")
        bidden = cast(bids.c.salt, BigInteger).label("salt")
        salts = union_all(
            select(asked).where(asks.c.provider == account),
            select(bidden).where(bids.c.account == account),
        ).subquery()
        before, after = CANCEL_KEY.format(account=account, salt="\0", and_older=0).split("\0")
        key = literal(before) + cast(salts.c.salt, String) + literal(after)
        keys = [key + try_key("", number) for number in range(1, CANCEL_TRIES + 1)]
        void = exists().where(intents.c.key.in_(keys), intents.c.state != IntentState.DEAD.value)
        query = select(func.min(salts.c.salt), func.max(salts.c.salt)).where(
            salts.c.salt >= lowest, salts.c.salt <= highest, ~void
        )
        least, greatest = self.connection.execute(query).one()
        return None if least is None else (int(least), int(greatest))

    def blob_bytes(self, owner: str, since_ms: int) -> int:
        """What an account has uploaded since, with BLOB_ROW_BYTES for each blob."""
        table = table_of(tables.BlobRow)
        total = func.coalesce(func.sum(table.c.size + BLOB_ROW_BYTES), 0)
        query = select(total).where(table.c.owner == owner, table.c.created_ms >= since_ms)
        return int(self.connection.execute(query).scalar_one())

    def lead(self, name: str) -> bool:
        """Advisory lock for this transaction; on SQLite the one writer always leads."""
        if self.connection.dialect.name != "postgresql":
            return True
        query = text("SELECT pg_try_advisory_xact_lock(:key)")
        return bool(self.connection.execute(query, {"key": lock_id(name)}).scalar_one())
