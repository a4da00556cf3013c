"""The market's store: one transaction, its tables, and what spans several of them."""

import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    String,
    cast,
    exists,
    func,
    literal,
    select,
    union_all,
)
from sqlmodel import Session, col

from marketplace.db import outbox, queries, tables
from marketplace.db.changes import ORDERS, OUTBOX, Changes, job_topic, notify
from marketplace.db.engine import available, make_engine
from marketplace.db.rows import Rows
from marketplace.db.tables import (
    AskRow,
    BidRow,
    ChainBlockRow,
    ChainEventLeaseRow,
    ChainEventRow,
    IntentRow,
    JobRow,
    LeaseRow,
)
from marketplace.domain.drafts import AskState
from settlement.events import event_from_json
from settlement.ports import BlockRef, Intent, IntentKind, IntentState, LoggedEvent

CANCEL_KEY = "cancel:{account}:{salt}:{and_older}"
"""The outbox's key of a Cancel: one transaction for each, however often it is signed."""
CANCEL_TRIES = 4
"""How often a Cancel is taken whose transactions died."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many rows there are: jobs, leases and intents by state, asks on the book.
    `oldest_intent_ms` is when the oldest intent was added that is neither final nor dead."""

    jobs: Mapping[str, int]
    leases: Mapping[str, int]
    intents: Mapping[str, int]
    oldest_intent_ms: int | None
    asks_resting: int


@dataclass(frozen=True, slots=True)
class Tries:
    """What the outbox holds of one effect: how many tries died, the last try, and its key. `key` is
    the last try's while that lives or has succeeded; else the one that the next may take."""

    key: str
    dead: int
    last: Intent | None

    @property
    def is_free(self) -> bool:
        """Whether the effect is neither done nor on its way."""
        return self.last is None or self.last.state is IntentState.DEAD


class Store:
    """Everything one transaction can reach. Rows may be changed in place until it ends."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.changed: set[str] = set()
        self.accounts = queries.AccountRows(session, tables.AccountRow)
        self.keys = queries.ApiKeyRows(session, tables.ApiKeyRow)
        self.nodes = queries.NodeRows(session, tables.NodeRow)
        self.gpus = queries.GpuRows(session, tables.GpuRow)
        self.asks = queries.AskRows(session, AskRow)
        self.bids = queries.BidRows(session, BidRow)
        self.jobs = queries.JobRows(session, JobRow)
        self.order_log = queries.OrderLog(session, tables.OrderEntryRow)
        self.snapshots = queries.SnapshotRows(session, tables.BookSnapshotRow)
        self.leases = queries.LeaseRows(session, LeaseRow)
        self.attestations = queries.AttestationRows(session, tables.AttestationRow)
        self.vouchers = queries.VoucherRows(session, tables.VoucherRow)
        self.receipts = queries.ReceiptRows(session, tables.ReceiptRow)
        self.events = queries.JobEvents(session, tables.JobEventRow)
        self.blobs = queries.BlobRows(session, tables.BlobRow)
        self.replies = queries.ReplyRows(session, tables.IdempotentReplyRow)
        self.marks = Rows(session, tables.MarkRow)

    @property
    def connection(self) -> Connection:
        """The connection under the session, for statements that name no row class."""
        return self.session.connection()

    @property
    def is_postgres(self) -> bool:
        """Whether the database is PostgreSQL."""
        return self.connection.dialect.name == "postgresql"

    def finish(self) -> None:
        """Write what is left: changed rows first, so that all locks are held, then the logs."""
        self.session.flush()
        waiting = [*self.order_log.waiting, *self.events.waiting]
        if self.order_log.waiting:
            self.changed.add(ORDERS)
        self.changed.update(job_topic(event.job_id) for event in self.events.waiting)
        if self.changed and self.is_postgres:
            notify(self.connection, self.changed)
        if not waiting:
            return
        if self.is_postgres:
            self.connection.execute(select(func.pg_advisory_xact_lock(_lock_id("logs"))))
        self.session.add_all(waiting)
        self.session.flush()

    def lead(self, name: str) -> bool:
        """Become the only holder of `name` until this transaction ends; False if another is. On
        SQLite the one writer always leads."""
        if not self.is_postgres:
            return True
        query = select(func.pg_try_advisory_xact_lock(_lock_id(name)))
        return bool(self.connection.execute(query).scalar_one())

    # The outbox

    def enqueue(self, kind: IntentKind, key: str, payload: dict[str, Any]) -> Intent:
        """Add an intent in this transaction; the same key and payload again returns the first."""
        self.changed.add(OUTBOX)
        return outbox.enqueue(self.connection, kind, key, payload)

    def intent(self, key: str) -> Intent | None:
        return self.intents([key]).get(key)

    def intents(self, keys: Iterable[str]) -> dict[str, Intent]:
        return outbox.by_keys(self.connection, keys)

    def tries(self, key: str) -> Tries:
        """The tries of an effect: an intent that died stays, and the next has a key of its own."""
        last = None
        dead = 0
        name = key
        while (found := self.intent(name)) is not None:
            last = found
            if found.state is not IntentState.DEAD:
                break
            dead += 1
            name = try_key(key, dead + 1)
        return Tries(name, dead, last)

    # The chain, as far as the indexer has read it

    def chain_events(self, lease_no: str | None = None) -> list[LoggedEvent]:
        """Events in chain order; of one lease, if given."""
        query = select(ChainEventRow).order_by(
            col(ChainEventRow.block_number), col(ChainEventRow.log_index)
        )
        if lease_no is not None:
            touches = col(ChainEventLeaseRow.event_id) == col(ChainEventRow.id)
            query = query.join(ChainEventLeaseRow, touches)
            query = query.where(col(ChainEventLeaseRow.lease_no) == lease_no)
        return [
            LoggedEvent(
                block_number=row.block_number,
                block_hash=row.block_hash,
                tx_hash=row.tx_hash,
                log_index=row.log_index,
                event=event_from_json(row.name, row.document),
            )
            for row in self.session.scalars(query)
        ]

    def newest_blocks(self, limit: int) -> list[BlockRef]:
        """The newest blocks the indexer has taken in, newest first."""
        query = select(ChainBlockRow).order_by(col(ChainBlockRow.number).desc()).limit(limit)
        return [
            BlockRef(row.number, row.hash, row.parent_hash, row.timestamp)
            for row in self.session.scalars(query)
        ]

    def chain_cursor(self) -> BlockRef | None:
        """The newest block the indexer has taken in."""
        return next(iter(self.newest_blocks(1)), None)

    # What spans tables

    def tally(self, now_s: int) -> Tally:
        """Counts for operators; an ask that has expired by `now_s` does not rest."""
        resting = select(func.count()).where(
            col(AskRow.state) == AskState.OPEN, col(AskRow.expiry_s) > now_s
        )
        return Tally(
            jobs=self._by_state(JobRow),
            leases=self._by_state(LeaseRow),
            intents=self._by_state(IntentRow),
            oldest_intent_ms=outbox.oldest_ms(self.connection),
            asks_resting=self.session.scalar(resting) or 0,
        )

    def _by_state(self, row: type[JobRow | LeaseRow | IntentRow]) -> dict[str, int]:
        query = select(col(row.state), func.count()).group_by(col(row.state))
        return {state: count for state, count in self.connection.execute(query)}

    def order_salts(self, account: str, lowest: int, highest: int) -> tuple[int, int] | None:
        """The least and the greatest salt in a range, ends included, of the account's asks and bids
        that no Cancel of their own makes void, whatever became of them; None if there is none.
        """
        asked = cast(col(AskRow.message)["salt"].as_string(), BigInteger).label("salt")
        bidden = cast(col(BidRow.salt), BigInteger).label("salt")
        salts = union_all(
            select(asked).where(col(AskRow.provider) == account),
            select(bidden).where(col(BidRow.account) == account),
        ).subquery()
        # SQL puts each row's salt into the key, so the key is cut where the salt goes: no account
        # holds a NUL.
        before, after = CANCEL_KEY.format(account=account, salt="\0", and_older=0).split("\0")
        key = literal(before) + cast(salts.c.salt, String) + literal(after)
        keys = [key + try_key("", number) for number in range(1, CANCEL_TRIES + 1)]
        void = exists().where(
            col(IntentRow.key).in_(keys), col(IntentRow.state) != IntentState.DEAD
        )
        query = select(func.min(salts.c.salt), func.max(salts.c.salt)).where(
            salts.c.salt >= lowest, salts.c.salt <= highest, ~void
        )
        least, greatest = self.connection.execute(query).one()
        return None if least is None else (int(least), int(greatest))


class Database:
    """Where transactions come from: SQLite, or PostgreSQL. `changes` tells what was committed.

    SQLite has one writer at a time: within a process they queue at a lock, because its own waiting
    is by sleeping; between processes it is the busy timeout.
    """

    def __init__(self, url: str) -> None:
        self.engine = make_engine(url)
        self.url = url
        self.changes = Changes()
        self._is_sqlite = self.engine.dialect.name == "sqlite"
        self._turn: AbstractContextManager[Any] = (
            threading.Lock() if self._is_sqlite else nullcontext()
        )

    @contextmanager
    def read(self) -> Iterator[Store]:
        """One consistent view; rows must not be changed. Raises Unavailable: try again later."""
        options = {} if self._is_sqlite else {"isolation_level": "REPEATABLE READ"}
        with self._transaction(options) as store:
            store.session.autoflush = False
            yield store
            if store.session.dirty or store.session.new:
                raise AssertionError("rows were changed in a transaction that only reads")

    @contextmanager
    def write(self) -> Iterator[Store]:
        """One durable transaction: all of it is there afterwards, or, on an exception, nothing.
        Nothing in it is visible to others before. Raises Unavailable: come back."""
        with self._turn, self._transaction({"writing": True}) as store:
            yield store
            store.finish()
        self.changes.tell(store.changed)

    @contextmanager
    def _transaction(self, options: dict[str, Any]) -> Iterator[Store]:
        with available(), self.engine.connect() as connection:
            connection = connection.execution_options(**options)
            with connection.begin(), Session(connection) as session:
                yield Store(session)

    def close(self) -> None:
        self.engine.dispose()


def try_key(key: str, number: int) -> str:
    """The key of an effect's try, counted from 1."""
    return key if number == 1 else f"{key}/{number}"


def _lock_id(name: str) -> int:
    """A stable number for an advisory lock."""
    return zlib.crc32(name.encode())
