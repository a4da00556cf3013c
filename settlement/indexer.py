"""Reads the escrow's events into a store and rolls back the blocks that a reorg removed.

Near the head, a block is stored only if its parent is the newest stored block. Blocks too deep for
a reorg are read in ranges. A node that merely lags behind causes no rollback.
"""

from dataclasses import dataclass

from settlement.chain.client import RANGE_BLOCKS
from settlement.chain.contracts import Escrow
from settlement.errors import ChainUnavailable
from settlement.ports import BlockRef, EventStore, LoggedEvent

REORG_DEPTH = 64  # blocks below the head that are checked one by one


@dataclass(frozen=True, slots=True)
class IndexerProgress:
    """What one tick did. `behind`: blocks that the store lags the node, or the node the store."""

    blocks: int = 0
    events: int = 0
    rolled_back: int = 0
    behind: int = 0


class Indexer:
    """Follows one escrow from its first block. Not thread-safe."""

    def __init__(
        self, store: EventStore, escrow: Escrow, first_block: int = 0, confirmations: int = 0
    ) -> None:
        self._store = store
        self._client = escrow.client
        self._escrow = escrow
        self._first = first_block
        self._confirmations = confirmations
        self._read: tuple[BlockRef, BlockRef | None] | None = None

    def tick(self) -> IndexerProgress:
        """Read one range, or the new blocks near the head. Raises ChainUnavailable, WrongChain."""
        head = self._client.head()
        cursor = self._store.cursor()
        if (head, cursor) == self._read:  # the head's hash also fixes every block below it
            return IndexerProgress()
        if cursor is not None and not self._confirmations and head.parent_hash == cursor.hash:
            return self._follow(head)
        self._client.check()
        rolled_back = self._follow_reorg(head)
        cursor = self._store.cursor()
        first = self._first if cursor is None else cursor.number + 1
        target = head.number - self._confirmations
        if target < first:
            behind = max(0, first - 1 - head.number)
            self._read = None if behind else (head, cursor)
            return IndexerProgress(rolled_back=rolled_back, behind=behind)
        deep = min(target, head.number - REORG_DEPTH)
        if first <= deep:
            last = min(deep, first + RANGE_BLOCKS - 1)
            events = self._read_range(first, last)
        else:
            last = target
            events = self._read_linked(first, last, cursor)
        self._read = (head, self._store.cursor()) if last == target else None
        return IndexerProgress(last - first + 1, events, rolled_back, target - last)

    def _follow(self, head: BlockRef) -> IndexerProgress:
        """Store the head, whose parent is the newest stored block."""
        events = [] if head.quiet else self._escrow.events(head.number, head.number)
        if any(event.block_hash != head.hash for event in events):
            raise ChainUnavailable(f"block {head.number} changed while it was read")
        self._store.append(head, events)
        self._read = (head, head)
        return IndexerProgress(1, len(events))

    def _follow_reorg(self, head: BlockRef) -> int:
        """Roll back to the newest stored block that is still on chain; return how many it drops."""
        stored = self._store.blocks(REORG_DEPTH + 1)
        reachable = [block for block in stored if block.number <= head.number]
        dropped = 0
        for block in reachable:
            if self._is_canonical(block):
                break
            dropped += 1
        if dropped == 0:
            return 0
        if dropped == len(reachable):
            # The reorg is deeper than the stored blocks: start over.
            self._store.rollback(self._first - 1)
        else:
            self._store.rollback(reachable[dropped].number)
        return dropped + len(stored) - len(reachable)

    def _is_canonical(self, block: BlockRef) -> bool:
        found = self._client.block(block.number)
        return found is not None and found.hash == block.hash

    def _read_range(self, first: int, last: int) -> int:
        end = self._require(last)
        events = self._escrow.events(first, last)
        if self._require(last).hash != end.hash:
            raise ChainUnavailable(f"block {last} changed while it was read")
        self._store.append(end, events)
        return len(events)

    def _read_linked(self, first: int, last: int, cursor: BlockRef | None) -> int:
        """Store block after block; each must be the child of the one before it."""
        by_block: dict[int, list[LoggedEvent]] = {}
        for event in self._escrow.events(first, last):
            by_block.setdefault(event.block_number, []).append(event)
        parent = cursor
        for number in range(first, last + 1):
            block = self._require(number)
            events = by_block.get(number, [])
            moved = parent is not None and block.parent_hash != parent.hash
            if moved or any(event.block_hash != block.hash for event in events):
                raise ChainUnavailable(f"block {number} changed while it was read")
            self._store.append(block, events)
            parent = block
        return sum(len(events) for events in by_block.values())

    def _require(self, number: int) -> BlockRef:
        block = self._client.block(number)
        if block is None:
            raise ChainUnavailable(f"the node no longer has block {number}")
        return block
