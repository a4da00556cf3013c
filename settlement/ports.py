"""What the relayer and the indexer need from a database: values and Protocols, no adapter.

Intent   pending → signed → sent → confirmed → final
            └───────┴───────┴────────┴──────→ dead (someone is told)
A reorg takes `confirmed` back to `sent`. Every method of a store is one durable transaction.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
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
    REFUND = "refund"
    CANCEL = "cancel"

    @property
    def urgent(self) -> bool:
        """Whether it goes before the others: it pays or frees money of leases that are open.

        Anyone may ask for opens and cancels at will; they must not keep those waiting.
        """
        return self not in (IntentKind.OPEN, IntentKind.CANCEL)


class IntentState(StrEnum):
    """Where an intent stands."""

    PENDING = "pending"
    SIGNED = "signed"
    SENT = "sent"
    CONFIRMED = "confirmed"
    FINAL = "final"
    DEAD = "dead"


OVER = (IntentState.FINAL, IntentState.DEAD)  # nothing more happens to these


@dataclass(frozen=True, slots=True)
class Intent:
    """One effect wanted on chain, and all that is known of the transaction that carries it.

    `payload` is {"to": address, "data": 0x hex, "value": int (left out: 0), "gas": int (left out:
    estimated)}. `sender`, `nonce`, `raw` and its hash `tx_hash` are stored together, before
    broadcast; `replaced` are hashes of earlier signings with the same nonce. One of all these is
    mined at most: `mined_hash`, in the block `block_number`.
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
    """The key of what is set aside from an intent: another one for another payload, because an
    intent that is vetted twice may leave out other vouchers. As short for one set aside twice."""
    digest = hashlib.sha256(json.dumps(later, sort_keys=True).encode()).hexdigest()
    return f"{key.partition('/later/')[0]}/later/{digest[:16]}"


class OutboxStore(Protocol):
    """Where intents live. Changes of state compare and set: OutboxConflict where it moved on."""

    def enqueue(self, kind: IntentKind, key: str, payload: dict[str, Any]) -> Intent:
        """Add a pending intent; the same key and payload again returns the first one.

        Raises OutboxConflict where the key has another kind or payload (as first enqueued).
        """
        ...

    def get(self, intent_id: int) -> Intent:
        """The intent as stored now. Raises KeyError."""
        ...

    def pending(self, limit: int) -> Sequence[Intent]:
        """Pending intents: urgent kinds first, of these and of the others the oldest first."""
        ...

    def in_flight(self, sender: str) -> Sequence[Intent]:
        """This sender's signed, sent and confirmed intents, by nonce."""
        ...

    def next_nonce(self, sender: str) -> int | None:
        """One above the greatest nonce ever stored for the sender; None if there is none."""
        ...

    def by_nonce(self, sender: str, nonce: int) -> Intent | None:
        """The intent that this nonce of the sender was given to, whatever its state now."""
        ...

    def amend(self, intent_id: int, payload: dict[str, Any], later: dict[str, Any] | None) -> None:
        """Narrow a pending intent's payload; `later` becomes a new pending intent of its own,
        with the key that `later_key` gives, in the same transaction."""
        ...

    def mark_signed(
        self, intent_id: int, sender: str, nonce: int, raw: bytes, tx_hash: str
    ) -> None:
        """pending → signed. Raises OutboxConflict where (sender, nonce) belongs to another."""
        ...

    def mark_replaced(self, intent_id: int, old_hash: str, raw: bytes, tx_hash: str) -> None:
        """signed, sent → signed: other fees, or an empty call in its place, and the same nonce;
        `old_hash` joins `replaced`."""
        ...

    def mark_sent(self, intent_id: int) -> None:
        """signed → sent; on sent it changes nothing."""
        ...

    def mark_confirmed(
        self, intent_id: int, mined_hash: str, block_number: int, block_hash: str
    ) -> None:
        """signed, sent, confirmed → confirmed: this transaction is in this block."""
        ...

    def mark_unconfirmed(self, intent_id: int) -> None:
        """confirmed → sent: a reorg took its block away."""
        ...

    def mark_final(self, intent_id: int) -> None:
        """confirmed → final."""
        ...

    def mark_dead(self, intent_id: int, error: str) -> None:
        """Anything but final → dead, with the reason; its nonce, if any, stays its own."""
        ...

    def note_attempt(self, intent_id: int, error: str) -> int:
        """Count one attempt that led nowhere, keep its reason; returns the attempts so far."""
        ...


@dataclass(frozen=True, slots=True)
class BlockRef:
    """One block. `timestamp` is chain time in seconds."""

    number: int
    hash: str
    parent_hash: str
    timestamp: int


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event and where the chain has it."""

    block_number: int
    block_hash: str
    tx_hash: str
    log_index: int
    event: ChainEvent


class EventStore(Protocol):
    """Where the indexer keeps what it read. (block hash, log index) is unique."""

    def cursor(self) -> BlockRef | None:
        """The newest block taken in; None before the first."""
        ...

    def blocks(self, limit: int) -> Sequence[BlockRef]:
        """The newest blocks taken in, newest first."""
        ...

    def append(self, block: BlockRef, events: Sequence[LoggedEvent]) -> None:
        """Store events up to `block` and move the cursor to it, in one transaction.

        Events come ordered by block and log index; all lie above the cursor and not above `block`.
        """
        ...

    def rollback(self, block_number: int) -> None:
        """Forget every block and event above `block_number`; the cursor falls back with them."""
        ...

    def events(self, lease_no: bytes | None = None) -> Sequence[LoggedEvent]:
        """Everything stored, in chain order; of one lease if asked."""
        ...
