"""What the indexer read, in the database, and the projection that follows in the same commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, delete, insert, select
from sqlmodel import SQLModel

from marketplace.db import tables
from marketplace.db.engine import Database
from marketplace.db.store import SqlStore, logged_event
from settlement.events import event_to_json, lease_numbers
from settlement.ports import BlockRef, LoggedEvent

BLOCKS = SQLModel.metadata.tables[str(tables.ChainBlockRow.__tablename__)]
EVENTS = SQLModel.metadata.tables[str(tables.ChainEventRow.__tablename__)]
LINKS = SQLModel.metadata.tables[str(tables.ChainEventLeaseRow.__tablename__)]
BLOCKS_KEPT = 4_096  # deeper reorgs than this are no longer followed back

Project = Callable[[SqlStore, Sequence[str]], None]


def _ignore(store: SqlStore, lease_numbers: Sequence[str]) -> None:
    """Project nothing."""


class SqlEventStore:
    """Implements `settlement.ports.EventStore`.

    `project` is called with the leases whose events changed, in the transaction that changed them.
    """

    def __init__(self, database: Database, project: Project = _ignore) -> None:
        self._database = database
        self._project = project

    def cursor(self) -> BlockRef | None:
        """The newest block taken in."""
        return next(iter(self.blocks(1)), None)

    def blocks(self, limit: int) -> Sequence[BlockRef]:
        """The newest blocks taken in, newest first."""
        columns = (BLOCKS.c.number, BLOCKS.c.hash, BLOCKS.c.parent_hash, BLOCKS.c.timestamp)
        query = select(*columns).order_by(BLOCKS.c.number.desc()).limit(limit)
        with self._database.read() as store:
            return [BlockRef(*row) for row in store.connection.execute(query)]

    def append(self, block: BlockRef, events: Sequence[LoggedEvent]) -> None:
        """Store events, move the cursor and project, in one transaction."""
        with self._database.write() as store:
            connection = store.connection
            touched: dict[str, None] = {}
            for logged in events:
                touched.update(dict.fromkeys(_store_event(connection, logged)))
            values = {
                "number": block.number,
                "hash": block.hash,
                "parent_hash": block.parent_hash,
                "timestamp": block.timestamp,
            }
            connection.execute(insert(BLOCKS).values(values))
            old = block.number - BLOCKS_KEPT
            connection.execute(delete(BLOCKS).where(BLOCKS.c.number < old))
            self._project(store, list(touched))

    def rollback(self, block_number: int) -> None:
        """Forget what lies above a block, and project what is left."""
        with self._database.write() as store:
            connection = store.connection
            gone = select(EVENTS.c.id).where(EVENTS.c.block_number > block_number)
            query = select(LINKS.c.lease_no).where(LINKS.c.event_id.in_(gone)).distinct()
            touched = list(connection.execute(query).scalars())
            connection.execute(delete(LINKS).where(LINKS.c.event_id.in_(gone)))
            connection.execute(delete(EVENTS).where(EVENTS.c.block_number > block_number))
            connection.execute(delete(BLOCKS).where(BLOCKS.c.number > block_number))
            self._project(store, touched)

    def events(self, lease_no: bytes | None = None) -> Sequence[LoggedEvent]:
        """Everything stored, in chain order; of one lease if asked."""
        query = select(EVENTS).order_by(EVENTS.c.block_number, EVENTS.c.log_index)
        if lease_no is not None:
            query = query.join(LINKS, LINKS.c.event_id == EVENTS.c.id)
            query = query.where(LINKS.c.lease_no == "0x" + lease_no.hex())
        with self._database.read() as store:
            return [logged_event(row) for row in store.connection.execute(query)]


def _store_event(connection: Connection, logged: LoggedEvent) -> list[str]:
    values = {
        "block_number": logged.block_number,
        "block_hash": logged.block_hash,
        "tx_hash": logged.tx_hash,
        "log_index": logged.log_index,
        "name": logged.event.name,
        "document": event_to_json(logged.event),
    }
    result = connection.execute(insert(EVENTS).values(values))
    event_id = result.inserted_primary_key[0]  # type: ignore[index]
    numbers = ["0x" + number.hex() for number in dict.fromkeys(lease_numbers(logged.event))]
    for number in numbers:
        connection.execute(insert(LINKS).values(event_id=event_id, lease_no=number))
    return numbers
