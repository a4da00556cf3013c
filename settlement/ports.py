"""What the relayer and the indexer need from a database: values and Protocols.

Intent   pending → signed → sent → confirmed → final
            └───────┴───────┴────────┴──────→ dead (an alert says why)
A reorg takes `confirmed` back to `sent`. Every method of a store is one durable transaction.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from settlement.events import ChainEvent


class IntentKind(StrEnum):
    """What an intent does on chain."""

    OPEN = "open"
    SETTLE = "settle"
    SETTLE_METERED = "settle_metered"
    CLOSE = "close"
    STOP = "stop"
    FREE = "free"
    REFUND = "refund"
    CANCEL = "cancel"
    WITHDRAW = "withdraw"
    TOP_UP = "top_up"

    @property
    def urgent(self) -> bool:
        """Whether it goes before the others because it pays or frees the money of open leases.

        Anyone can cause any number of opens, cancels and signed calls, which must not delay these.
        """
        asked = (IntentKind.OPEN, IntentKind.CANCEL, IntentKind.WITHDRAW, IntentKind.TOP_UP)
        return self not in asked


class IntentState(StrEnum):
    """How far an intent has come; FINAL and DEAD are OVER."""

    PENDING = "pending"
    SIGNED = "signed"
    SENT = "sent"
    CONFIRMED = "confirmed"
    FINAL = "final"
    DEAD = "dead"


OVER = (IntentState.FINAL, IntentState.DEAD)


@dataclass(frozen=True, slots=True)
class Intent:
    """One effect wanted on chain, and the transaction that carries it.

    `payload` is {"to": address, "data": 0x hex, "value": int (default 0), "gas": int (default: the
    node's estimate)}. `sender`, `nonce`, the signed bytes `raw` and their hash `tx_hash` are stored
    together before broadcast. `replaced` holds the hashes of earlier transactions with the same
    nonce. At most one of them all is mined: `mined_hash`, in block `block_number`.
    """

    id: int
    kind: IntentKind
    key: str
    payload: dict[str, Any]
    state: IntentState
    created_at: datetime
    sender: str | None = None
    nonce: int | None = None
    raw: bytes | None = None
    tx_hash: str | None = None
    replaced: tuple[str, ...] = ()
    mined_hash: str | None = None
    block_number: int | None = None
    block_hash: str | None = None
    attempts: int = 0
    error: str | None = None


def later_key(key: str, later: dict[str, Any]) -> str:
    """The key of an intent for vouchers that were split off the intent `key` to be sent later.

    It depends on the payload, because vetting again may split off others. It does not grow.
    """
    digest = hashlib.sha256(json.dumps(later, sort_keys=True).encode()).hexdigest()
    return f"{key.partition('/later/')[0]}/later/{digest[:16]}"


class OutboxStore(Protocol):
    """Where intents are stored. A change of state raises OutboxConflict if the state moved on."""

    def enqueue(self, kind: IntentKind, key: str, payload: dict[str, Any]) -> Intent:
        """Add a pending intent, or return the one that was enqueued with the same arguments.

        Raises OutboxConflict if the key was enqueued with another kind or payload.
        """

    def get(self, intent_id: int) -> Intent:
        """The intent as stored now. Raises KeyError."""

    def pending(self, limit: int) -> Sequence[Intent]:
        """Pending intents: urgent kinds first, then by age, oldest first."""

    def in_flight(self, sender: str) -> Sequence[Intent]:
        """The sender's signed, sent and confirmed intents, by nonce."""

    def next_nonce(self, sender: str) -> int | None:
        """One more than the sender's greatest stored nonce; None if none is stored."""

    def by_nonce(self, sender: str, nonce: int) -> Intent | None:
        """The intent that holds this nonce of the sender, in any state."""

    def amend(self, intent_id: int, payload: dict[str, Any], later: dict[str, Any] | None) -> None:
        """Narrow a pending intent's payload; `later` becomes a pending intent, by `later_key`."""

    def mark_signed(
        self, intent_id: int, sender: str, nonce: int, raw: bytes, tx_hash: str
    ) -> None:
        """pending → signed. Raises OutboxConflict if another intent has the sender's nonce."""

    def mark_replaced(self, intent_id: int, old_hash: str, raw: bytes, tx_hash: str) -> None:
        """signed, sent → signed, with another transaction of the nonce; `old_hash` is replaced."""

    def mark_sent(self, intent_id: int) -> None:
        """signed → sent. Changes nothing if already sent."""

    def mark_confirmed(
        self, intent_id: int, mined_hash: str, block_number: int, block_hash: str
    ) -> None:
        """signed, sent, confirmed → confirmed: the transaction `mined_hash` is in this block."""

    def mark_unconfirmed(self, intent_id: int) -> None:
        """confirmed → sent: a reorg removed its block."""

    def mark_final(self, intent_id: int) -> None:
        """confirmed → final."""

    def mark_dead(self, intent_id: int, error: str) -> None:
        """Any state but final → dead, with the reason. It keeps its nonce, if it has one."""

    def note_attempt(self, intent_id: int, error: str) -> int:
        """Count a failed attempt and keep its reason; return the number of attempts."""


@dataclass(frozen=True, slots=True)
class BlockRef:
    """One block. `timestamp` is chain time in seconds. `quiet`: no contract logged anything."""

    number: int
    hash: str
    parent_hash: str
    timestamp: int
    quiet: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event and its place on chain."""

    block_number: int
    block_hash: str
    tx_hash: str
    log_index: int
    event: ChainEvent


class EventStore(Protocol):
    """Where the indexer stores what it read. (block hash, log index) is unique."""

    def cursor(self) -> BlockRef | None:
        """The newest stored block; None if there is none."""

    def blocks(self, limit: int) -> Sequence[BlockRef]:
        """The newest stored blocks, newest first."""

    def append(self, block: BlockRef, events: Sequence[LoggedEvent]) -> None:
        """Store events up to `block` and move the cursor to it, in one transaction.

        `events` is sorted by block and log index; all are above the cursor and none above `block`.
        """

    def rollback(self, block_number: int) -> None:
        """Delete every block and event above `block_number` and move the cursor back."""

    def events(self, lease_no: bytes | None = None) -> Sequence[LoggedEvent]:
        """All stored events in chain order, or only those of one lease."""
