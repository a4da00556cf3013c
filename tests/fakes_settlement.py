"""An event store in memory, whose content tests may falsify."""

from __future__ import annotations

from collections.abc import Sequence

from settlement.events import lease_numbers
from settlement.ports import BlockRef, LoggedEvent


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
