"""Stores in memory that keep the promises of `settlement.ports`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from settlement.errors import OutboxConflict
from settlement.events import lease_numbers
from settlement.ports import (
    BlockRef,
    Intent,
    IntentKind,
    IntentState,
    LoggedEvent,
    later_key,
)

_S = IntentState


class MemoryOutbox:
    """An OutboxStore in a dict."""

    def __init__(self) -> None:
        self.intents: dict[int, Intent] = {}
        self.first_payloads: dict[str, dict[str, Any]] = {}

    def enqueue(self, kind: IntentKind, key: str, payload: dict[str, Any]) -> Intent:
        for intent in self.intents.values():
            if intent.key == key:
                if (intent.kind, self.first_payloads[key]) != (kind, payload):
                    raise OutboxConflict(f"{key} stands with another payload")
                return intent
        number = len(self.intents) + 1
        intent = Intent(number, kind, key, dict(payload), _S.PENDING, datetime.now(UTC))
        self.intents[number] = intent
        self.first_payloads[key] = dict(payload)
        return intent

    def get(self, intent_id: int) -> Intent:
        return self.intents[intent_id]

    def pending(self, limit: int) -> Sequence[Intent]:
        found = [i for i in self.intents.values() if i.state is _S.PENDING]
        return sorted(found, key=lambda i: not i.kind.urgent)[:limit]

    def in_flight(self, sender: str) -> Sequence[Intent]:
        live = (_S.SIGNED, _S.SENT, _S.CONFIRMED)
        found = [i for i in self.intents.values() if i.sender == sender and i.state in live]
        return sorted(found, key=lambda i: i.nonce or 0)

    def next_nonce(self, sender: str) -> int | None:
        used = [
            i.nonce for i in self.intents.values() if i.sender == sender and i.nonce is not None
        ]
        return max(used) + 1 if used else None

    def by_nonce(self, sender: str, nonce: int) -> Intent | None:
        found = (i for i in self.intents.values() if (i.sender, i.nonce) == (sender, nonce))
        return next(found, None)

    def amend(self, intent_id: int, payload: dict[str, Any], later: dict[str, Any] | None) -> None:
        intent = self._expect(intent_id, _S.PENDING)
        if later is not None:
            self.enqueue(intent.kind, later_key(intent.key, later), later)
        self.intents[intent_id] = replace(intent, payload=dict(payload))

    def mark_signed(
        self, intent_id: int, sender: str, nonce: int, raw: bytes, tx_hash: str
    ) -> None:
        self._expect(intent_id, _S.PENDING)
        if any(i.sender == sender and i.nonce == nonce for i in self.intents.values()):
            raise OutboxConflict(f"nonce {nonce} of {sender} is taken")
        self._set(intent_id, state=_S.SIGNED, sender=sender, nonce=nonce, raw=raw, tx_hash=tx_hash)

    def mark_replaced(self, intent_id: int, old_hash: str, raw: bytes, tx_hash: str) -> None:
        intent = self._expect(intent_id, _S.SIGNED, _S.SENT)
        if intent.tx_hash != old_hash:
            raise OutboxConflict(f"{intent_id} carries {intent.tx_hash}, not {old_hash}")
        self._set(
            intent_id,
            state=_S.SIGNED,
            raw=raw,
            tx_hash=tx_hash,
            replaced=(*intent.replaced, old_hash),
        )

    def mark_sent(self, intent_id: int) -> None:
        self._expect(intent_id, _S.SIGNED, _S.SENT)
        self._set(intent_id, state=_S.SENT)

    def mark_confirmed(
        self, intent_id: int, mined_hash: str, block_number: int, block_hash: str
    ) -> None:
        self._expect(intent_id, _S.SIGNED, _S.SENT, _S.CONFIRMED)
        self._set(
            intent_id,
            state=_S.CONFIRMED,
            mined_hash=mined_hash,
            block_number=block_number,
            block_hash=block_hash,
            error=None,
        )

    def mark_unconfirmed(self, intent_id: int) -> None:
        self._expect(intent_id, _S.CONFIRMED)
        self._set(intent_id, state=_S.SENT, mined_hash=None, block_number=None, block_hash=None)

    def mark_final(self, intent_id: int) -> None:
        self._expect(intent_id, _S.CONFIRMED)
        self._set(intent_id, state=_S.FINAL)

    def mark_dead(self, intent_id: int, error: str) -> None:
        self._expect(intent_id, *(s for s in _S if s is not _S.FINAL))
        self._set(intent_id, state=_S.DEAD, error=error)

    def note_attempt(self, intent_id: int, error: str) -> int:
        intent = self.get(intent_id)
        self._set(intent_id, attempts=intent.attempts + 1, error=error)
        return intent.attempts + 1

    def _expect(self, intent_id: int, *states: IntentState) -> Intent:
        intent = self.intents[intent_id]
        if intent.state not in states:
            raise OutboxConflict(f"intent {intent_id} is {intent.state}")
        return intent

    def _set(self, intent_id: int, **changes: Any) -> None:
        self.intents[intent_id] = replace(self.intents[intent_id], **changes)


class MemoryEvents:
    """An EventStore in two lists."""

    def __init__(self) -> None:
        self.refs: list[BlockRef] = []
        self.logged: list[LoggedEvent] = []

    def cursor(self) -> BlockRef | None:
        return self.refs[-1] if self.refs else None

    def blocks(self, limit: int) -> Sequence[BlockRef]:
        return self.refs[::-1][:limit]

    def append(self, block: BlockRef, events: Sequence[LoggedEvent]) -> None:
        above = self.refs[-1].number if self.refs else -1
        numbers = [above + 1, *(e.block_number for e in events), block.number]
        if numbers != sorted(numbers):
            raise ValueError("events out of order")
        self.refs.append(block)
        self.logged.extend(events)

    def rollback(self, block_number: int) -> None:
        self.refs = [b for b in self.refs if b.number <= block_number]
        self.logged = [e for e in self.logged if e.block_number <= block_number]

    def events(self, lease_no: bytes | None = None) -> Sequence[LoggedEvent]:
        return [e for e in self.logged if lease_no is None or lease_no in lease_numbers(e.event)]
