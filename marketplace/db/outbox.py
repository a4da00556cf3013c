"""The relayer's outbox in the database. Every change of state compares and sets."""

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Table, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from marketplace.db.tables import IntentRow
from settlement.errors import OutboxConflict
from settlement.ports import Intent, IntentKind, IntentState, later_key

if TYPE_CHECKING:
    from marketplace.db.store import Database

INTENTS: Table = IntentRow.metadata.tables["intents"]
LATER = INTENTS.c.kind.in_([kind for kind in IntentKind if not kind.urgent])
LIVE = (IntentState.SIGNED, IntentState.SENT, IntentState.CONFIRMED)
UNFINISHED = (IntentState.PENDING, *LIVE)


def _intent(row: Any) -> Intent:
    columns = dict(row._mapping)
    del columns["first_payload"]
    created_at = datetime.fromtimestamp(columns.pop("created_ms") / 1000, UTC)
    replaced = tuple(columns.pop("replaced"))
    return Intent(**columns, created_at=created_at, replaced=replaced)


def by_keys(connection: Connection, keys: Iterable[str]) -> dict[str, Intent]:
    query = select(INTENTS).where(INTENTS.c.key.in_(set(keys)))
    return {row.key: _intent(row) for row in connection.execute(query)}


def enqueue(connection: Connection, kind: IntentKind, key: str, payload: dict[str, Any]) -> Intent:
    """Insert a pending intent, or return the one that has this key, kind and first payload."""
    query = select(INTENTS).where(INTENTS.c.key == key)
    row = connection.execute(query).first()
    if row is None:
        values = {
            "kind": kind,
            "key": key,
            "payload": payload,
            "first_payload": payload,
            "state": IntentState.PENDING,
            "created_ms": time.time_ns() // 1_000_000,
            "replaced": [],
            "attempts": 0,
        }
        # Another process may add the same key between the look and the insert: then its row counts.
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(INTENTS).values(values)
        connection.execute(statement.on_conflict_do_nothing(index_elements=["key"]))
        row = connection.execute(query).one()
    if row.kind is not kind or row.first_payload != payload:
        raise OutboxConflict(f"intent {key} is already there with another effect")
    return _intent(row)


def oldest_ms(connection: Connection) -> int | None:
    """When the oldest intent that is neither final nor dead was added."""
    query = select(func.min(INTENTS.c.created_ms)).where(INTENTS.c.state.in_(UNFINISHED))
    found: int | None = connection.execute(query).scalar_one()
    return found


def _get(connection: Connection, intent_id: int) -> Intent:
    row = connection.execute(select(INTENTS).where(INTENTS.c.id == intent_id)).first()
    if row is None:
        raise KeyError(intent_id)
    return _intent(row)


def _move(
    connection: Connection, intent_id: int, states: Iterable[IntentState], **values: Any
) -> None:
    """Set columns of an intent that is in one of these states. Raises OutboxConflict."""
    here = INTENTS.c.id == intent_id, INTENTS.c.state.in_(states)
    try:
        moved = connection.execute(update(INTENTS).where(*here).values(values)).rowcount
    except IntegrityError as error:
        raise OutboxConflict(f"intent {intent_id}: the nonce belongs to another") from error
    if moved != 1:
        now = _get(connection, intent_id).state
        raise OutboxConflict(f"intent {intent_id} is {now}, not one of {', '.join(states)}")


class SqlOutbox:
    """Implements `settlement.ports.OutboxStore`; each method is one transaction."""

    def __init__(self, database: "Database") -> None:
        self._database = database

    def enqueue(self, kind: IntentKind, key: str, payload: dict[str, Any]) -> Intent:
        """Add a pending intent; the same key and payload again returns the first one."""
        with self._database.write() as store:
            return enqueue(store.connection, kind, key, payload)

    def get(self, intent_id: int) -> Intent:
        """The intent as stored now. Raises KeyError."""
        with self._database.read() as store:
            return _get(store.connection, intent_id)

    def pending(self, limit: int) -> Sequence[Intent]:
        """Pending intents: urgent kinds first, of these and of the others the oldest first."""
        query = select(INTENTS).where(INTENTS.c.state == IntentState.PENDING)
        return self._list(query.order_by(LATER, INTENTS.c.id).limit(limit))

    def recent(self, limit: int) -> Sequence[Intent]:
        """The newest intents, newest first."""
        return self._list(select(INTENTS).order_by(INTENTS.c.id.desc()).limit(limit))

    def unfinished(self, limit: int) -> Sequence[Intent]:
        """Intents that are neither final nor dead, oldest first."""
        query = select(INTENTS).where(INTENTS.c.state.in_(UNFINISHED))
        return self._list(query.order_by(INTENTS.c.id).limit(limit))

    def in_flight(self, sender: str) -> Sequence[Intent]:
        """This sender's signed, sent and confirmed intents, by nonce."""
        query = select(INTENTS).where(INTENTS.c.state.in_(LIVE), INTENTS.c.sender == sender)
        return self._list(query.order_by(INTENTS.c.nonce))

    def by_nonce(self, sender: str, nonce: int) -> Intent | None:
        """The intent that was signed with this nonce of the sender, in whatever state it is."""
        query = select(INTENTS).where(INTENTS.c.sender == sender, INTENTS.c.nonce == nonce)
        return next(iter(self._list(query)), None)

    def next_nonce(self, sender: str) -> int | None:
        """One above the greatest nonce ever stored for the sender; None if there is none."""
        query = select(func.max(INTENTS.c.nonce)).where(INTENTS.c.sender == sender)
        with self._database.read() as store:
            found = store.connection.execute(query).scalar_one()
        return None if found is None else int(found) + 1

    def amend(self, intent_id: int, payload: dict[str, Any], later: dict[str, Any] | None) -> None:
        """Narrow a pending intent; `later` becomes an intent with a key of its own."""
        with self._database.write() as store:
            intent = _get(store.connection, intent_id)
            _move(store.connection, intent_id, (IntentState.PENDING,), payload=payload)
            if later is not None:
                enqueue(store.connection, intent.kind, later_key(intent.key, later), later)

    def mark_signed(
        self, intent_id: int, sender: str, nonce: int, raw: bytes, tx_hash: str
    ) -> None:
        """pending → signed, once per (sender, nonce) by database constraint."""
        signed = {"sender": sender, "nonce": nonce, "raw": raw, "tx_hash": tx_hash}
        self._mark(intent_id, (IntentState.PENDING,), IntentState.SIGNED, **signed)

    def mark_replaced(self, intent_id: int, old_hash: str, raw: bytes, tx_hash: str) -> None:
        """signed, sent → signed with other fees and the same nonce."""
        with self._database.write() as store:
            intent = _get(store.connection, intent_id)
            if intent.tx_hash != old_hash:
                raise OutboxConflict(f"intent {intent_id} was last signed as {intent.tx_hash}")
            _move(
                store.connection,
                intent_id,
                (IntentState.SIGNED, IntentState.SENT),
                state=IntentState.SIGNED,
                raw=raw,
                tx_hash=tx_hash,
                replaced=[*intent.replaced, old_hash],
            )

    def mark_sent(self, intent_id: int) -> None:
        """signed → sent; on sent it changes nothing."""
        self._mark(intent_id, (IntentState.SIGNED, IntentState.SENT), IntentState.SENT)

    def mark_confirmed(
        self, intent_id: int, mined_hash: str, block_number: int, block_hash: str
    ) -> None:
        """signed, sent, confirmed → confirmed in this block."""
        place = {"mined_hash": mined_hash, "block_number": block_number, "block_hash": block_hash}
        self._mark(intent_id, LIVE, IntentState.CONFIRMED, **place, error=None)

    def mark_unconfirmed(self, intent_id: int) -> None:
        """confirmed → sent."""
        place = dict.fromkeys(("mined_hash", "block_number", "block_hash"))
        self._mark(intent_id, (IntentState.CONFIRMED,), IntentState.SENT, **place)

    def mark_final(self, intent_id: int) -> None:
        """confirmed → final."""
        self._mark(intent_id, (IntentState.CONFIRMED,), IntentState.FINAL)

    def mark_dead(self, intent_id: int, error: str) -> None:
        """Anything but final → dead, with the reason."""
        states = [state for state in IntentState if state is not IntentState.FINAL]
        self._mark(intent_id, states, IntentState.DEAD, error=error)

    def note_attempt(self, intent_id: int, error: str) -> int:
        """Count one failed attempt and keep its reason."""
        with self._database.write() as store:
            attempts = _get(store.connection, intent_id).attempts + 1
            _move(store.connection, intent_id, IntentState, attempts=attempts, error=error)
        return attempts

    def _list(self, query: Any) -> list[Intent]:
        with self._database.read() as store:
            return [_intent(row) for row in store.connection.execute(query)]

    def _mark(
        self, intent_id: int, states: Iterable[IntentState], to: IntentState, **values: Any
    ) -> None:
        with self._database.write() as store:
            _move(store.connection, intent_id, states, state=to, **values)
