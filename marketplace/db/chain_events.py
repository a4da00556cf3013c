"""What the indexer read, in the database, and the projection that follows in the same commit."""

from collections.abc import Callable, Sequence

from sqlmodel import Session, col, delete, select

from marketplace.db.store import Database, Store
from marketplace.db.tables import ChainBlockRow, ChainEventLeaseRow, ChainEventRow
from settlement.events import Cancelled, ChainEvent, Opened, event_to_json, lease_numbers
from settlement.orders import Numbered
from settlement.ports import BlockRef, LoggedEvent

BLOCKS_KEPT = 4_096  # deeper reorgs than this are no longer followed back

Project = Callable[[Store, Sequence[str]], None]


class SqlEventStore:
    """Implements `settlement.ports.EventStore`. `project` is called with the leases whose events
    changed, in the transaction that changed them."""

    def __init__(self, database: Database, project: Project = lambda *_: None) -> None:
        self._database = database
        self._project = project

    def cursor(self) -> BlockRef | None:
        """The newest block taken in."""
        return next(iter(self.blocks(1)), None)

    def blocks(self, limit: int) -> Sequence[BlockRef]:
        """The newest blocks taken in, newest first."""
        with self._database.read() as store:
            return store.newest_blocks(limit)

    def append(self, block: BlockRef, events: Sequence[LoggedEvent]) -> None:
        """Store events, move the cursor and project, in one transaction. Salts that the events name
        are not given out again."""
        with self._database.write() as store:
            touched: dict[str, None] = {}
            for logged in events:
                _pass_salt(store, logged.event, block.timestamp * 1000)
                touched.update(dict.fromkeys(_store_event(store.session, logged)))
            row = ChainBlockRow(
                number=block.number,
                hash=block.hash,
                parent_hash=block.parent_hash,
                timestamp=block.timestamp,
            )
            store.session.add(row)
            old = col(ChainBlockRow.number) < block.number - BLOCKS_KEPT
            store.session.exec(delete(ChainBlockRow).where(old))
            self._project(store, list(touched))

    def rollback(self, block_number: int) -> None:
        """Forget what lies above a block, and project what is left."""
        with self._database.write() as store:
            session = store.session
            above = col(ChainEventRow.block_number) > block_number
            gone = col(ChainEventLeaseRow.event_id).in_(select(ChainEventRow.id).where(above))
            touched = session.exec(select(ChainEventLeaseRow.lease_no).where(gone).distinct()).all()
            session.exec(delete(ChainEventLeaseRow).where(gone))
            session.exec(delete(ChainEventRow).where(above))
            session.exec(delete(ChainBlockRow).where(col(ChainBlockRow.number) > block_number))
            self._project(store, touched)

    def events(self, lease_no: bytes | None = None) -> Sequence[LoggedEvent]:
        """All stored events in chain order, or only those of one lease."""
        number = None if lease_no is None else "0x" + lease_no.hex()
        with self._database.read() as store:
            return store.chain_events(number)


def _pass_salt(store: Store, event: ChainEvent, now_ms: int) -> None:
    """Keep an account from getting a salt again that the chain has seen."""
    if isinstance(event, Opened):
        store.accounts.pass_salt(event.buyer, event.bid_salt, now_ms)
    elif isinstance(event, Cancelled) and event.kind == Numbered.ORDERS:
        older = event.and_older
        store.accounts.pass_salt(event.account, event.salt, now_ms, and_older=older)


def _store_event(session: Session, logged: LoggedEvent) -> list[str]:
    row = ChainEventRow(
        block_number=logged.block_number,
        block_hash=logged.block_hash,
        tx_hash=logged.tx_hash,
        log_index=logged.log_index,
        name=type(logged.event).__name__,
        document=event_to_json(logged.event),
    )
    session.add(row)
    session.flush()
    numbers = ["0x" + number.hex() for number in dict.fromkeys(lease_numbers(logged.event))]
    session.add_all(ChainEventLeaseRow(event_id=row.id, lease_no=number) for number in numbers)
    return numbers
