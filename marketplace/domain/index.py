"""Where resting orders are found: per tier, buckets of asks and queues of bids.

An ask lives in the bucket of its attributes, on a price level, in order of arrival. A search merges
the buckets a bid may use, cheapest first, and never looks at the others. Cancelling marks; marked
entries are swept when they outnumber the rest, so both are O(1) amortised.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace, merge
from operator import attrgetter

from marketplace.domain.matching import AskView, BidView, BucketKey, Shape, fits, shape_fits

_SWEEP_MIN = 16
_PRICE_UNITS = 10**6  # finer than any price, so that limits per GPU or core sort without fractions
_by_seq = attrgetter("seq")


@dataclass(slots=True, eq=False)
class Level:
    """Asks of one price per hour (`lead_hour`), in order of arrival; some may be dead.

    Everything before `head` is dead, so that a search never wades through what was taken.
    """

    asks: list[AskView] = field(default_factory=list)
    dead: int = 0
    head: int = 0

    def add(self, ask: AskView) -> None:
        """Put an ask at its place; one that was only marked dead comes back to life there."""
        ask.live = True
        asks = self.asks
        if ask.in_level:
            self.dead -= 1
            self.head = min(self.head, bisect_left(asks, ask.seq, key=_by_seq))
            return
        ask.in_level = True
        if not asks or asks[-1].seq < ask.seq:
            asks.append(ask)
        else:
            place = bisect_left(asks, ask.seq, key=_by_seq)
            asks.insert(place, ask)
            self.head = min(self.head, place)

    def remove(self, ask: AskView) -> None:
        """Mark an ask dead; sweep once most are."""
        ask.live = False
        self.dead += 1
        asks, head = self.asks, self.head
        while head < len(asks) and not asks[head].live:
            head += 1
        self.head = head
        if self.dead > _SWEEP_MIN and self.dead * 2 > len(asks):
            self.sweep()

    def sweep(self) -> None:
        """Drop the dead."""
        for ask in self.asks:
            ask.in_level = ask.live
        self.asks = [ask for ask in self.asks if ask.live]
        self.dead = self.head = 0


@dataclass(slots=True, eq=False)
class Bucket:
    """Asks that share every indexed attribute, by price and then arrival."""

    key: BucketKey
    prices: list[int] = field(default_factory=list)
    levels: dict[int, Level] = field(default_factory=dict)

    def add(self, ask: AskView) -> None:
        """Index an ask."""
        if (level := self.levels.get(ask.lead_hour)) is None:
            level = self.levels[ask.lead_hour] = Level()
            insort(self.prices, ask.lead_hour)
        level.add(ask)

    def remove(self, ask: AskView) -> None:
        """Take an ask out."""
        level = self.levels[ask.lead_hour]
        level.remove(ask)
        if level.dead == len(level.asks):
            level.sweep()
            self._drop(ask.lead_hour)

    def forget(self, ask: AskView) -> None:
        """Drop the dead reference to an ask that is about to change its bucket."""
        level = self.levels[ask.lead_hour]
        level.sweep()
        if not level.asks:
            self._drop(ask.lead_hour)

    def _drop(self, price: int) -> None:
        del self.levels[price]
        del self.prices[bisect_left(self.prices, price)]

    def walk(self) -> Iterator[AskView]:
        """Live asks, cheapest first; the bucket must not change meanwhile."""
        for price in self.prices:
            level = self.levels[price]
            asks = level.asks
            for place in range(level.head, len(asks)):
                ask = asks[place]
                if ask.live:
                    yield ask


@dataclass(slots=True, eq=False)
class BidQueue:
    """Resting bids of one tier and shape, the next in line last: highest limit, then arrival.

    Fills take from the end, where dropping the dead is free.
    """

    shape: Shape
    bids: list[tuple[int, int, BidView]] = field(default_factory=list)
    dead: int = 0

    def add(self, bid: BidView, rate: int) -> None:
        """Queue a bid whose limit in this tier is `rate`."""
        insort(self.bids, (rate * _PRICE_UNITS // bid.lead_milli, -bid.seq, bid))

    def sweep(self) -> None:
        """Drop the dead at the end, and all others once they outnumber the living."""
        bids = self.bids
        while bids and not bids[-1][2].live:
            bids.pop()
            self.dead -= 1
        if self.dead > _SWEEP_MIN and self.dead * 2 > len(bids):
            self.purge()

    def purge(self) -> None:
        """Drop all the dead; not while the queue is being walked."""
        self.bids = [item for item in self.bids if item[2].live]
        self.dead = 0

    def reaches(self, price: int) -> bool:
        """Whether its highest limit is at least this price per hour."""
        return bool(self.bids) and self.bids[-1][0] >= price * _PRICE_UNITS

    def walk(self) -> Iterator[tuple[int, int, BidView]]:
        """Live bids in priority; marking bids dead meanwhile is allowed, sweeping is not."""
        return (item for item in reversed(self.bids) if item[2].live)


@dataclass(slots=True, eq=False)
class TierIndex:
    """One tier's buckets and queues, and which of them fit each other."""

    buckets: dict[BucketKey, Bucket] = field(default_factory=dict)
    queues: dict[Shape, BidQueue] = field(default_factory=dict)
    _buckets_of: dict[Shape, tuple[Bucket, ...]] = field(default_factory=dict)
    _queues_of: dict[BucketKey, tuple[BidQueue, ...]] = field(default_factory=dict)

    def bucket(self, key: BucketKey) -> Bucket:
        """The bucket of this key; a new one if there is none."""
        if (bucket := self.buckets.get(key)) is None:
            bucket = self.buckets[key] = Bucket(key)
            self._buckets_of.clear()
        return bucket

    def queue(self, shape: Shape) -> BidQueue:
        """The queue of this shape; a new one if there is none."""
        if (queue := self.queues.get(shape)) is None:
            queue = self.queues[shape] = BidQueue(shape)
            self._queues_of.clear()
        return queue

    def buckets_of(self, shape: Shape) -> tuple[Bucket, ...]:
        """Buckets that a bid of this shape may search."""
        if (found := self._buckets_of.get(shape)) is None:
            found = tuple(b for b in self.buckets.values() if shape_fits(shape, b.key))
            self._buckets_of[shape] = found
        return found

    def queues_of(self, key: BucketKey) -> tuple[BidQueue, ...]:
        """Queues whose bids may search a bucket of this key."""
        if (found := self._queues_of.get(key)) is None:
            found = tuple(q for q in self.queues.values() if shape_fits(q.shape, key))
            self._queues_of[key] = found
        return found


@dataclass(slots=True, eq=False)
class Index:
    """All tiers, by name."""

    tiers: dict[bytes, TierIndex] = field(default_factory=lambda: defaultdict(TierIndex))

    def add_ask(self, ask: AskView) -> None:
        """Open an ask for matches."""
        self.tiers[ask.ask.tier].bucket(ask.key).add(ask)

    def remove_ask(self, ask: AskView) -> None:
        """Close a live ask for matches."""
        self.tiers[ask.ask.tier].buckets[ask.key].remove(ask)

    def add_bid(self, bid: BidView) -> None:
        """Queue a bid in every tier it accepts."""
        bid.live = True
        for name, limit in bid.limits.items():
            self.tiers[name].queue(bid.shape).add(bid, limit.rate)

    def remove_bid(self, bid: BidView) -> None:
        """Take a bid out of its queues."""
        bid.live = False
        for name in bid.limits:
            self.tiers[name].queues[bid.shape].dead += 1

    def sweep(self, bid: BidView) -> None:
        """Sweep the queues a dead bid was in; not while one of them is being walked."""
        for name in bid.limits:
            if queue := self.tiers[name].queues.get(bid.shape):  # none if it was paused all along
                queue.sweep()

    def set_aside(self, bids: Sequence[BidView]) -> None:
        """Take bids out for good, so that they may be added again."""
        for bid in bids:
            self.remove_bid(bid)
        queues = {id(q): q for bid in bids for n in bid.limits for q in [self._queue(n, bid)]}
        for queue in queues.values():
            queue.purge()

    def _queue(self, tier: bytes, bid: BidView) -> BidQueue:
        return self.tiers[tier].queues[bid.shape]

    def move_ask(self, ask: AskView, key: BucketKey) -> None:
        """Give a dead ask another bucket."""
        if ask.in_level:
            self.tiers[ask.ask.tier].buckets[ask.key].forget(ask)
        ask.key = key

    def best(self, bid: BidView) -> AskView | None:
        """The fitting ask of the lowest all-in rate, then earliest arrival.

        The price of the GPUs alone, or of the cores if there are none, bounds the rate from below
        and orders the merge, so the search ends when the next bound cannot beat what was found.
        """
        heap = self._heads(bid)
        lead_milli = bid.lead_milli
        best: AskView | None = None
        best_rate = best_seq = 0
        while heap:
            bound, seq, limit, ask, walk = heap[0]
            if best is not None and (bound, seq) > (best_rate, best_seq):
                break
            if bound > limit:
                heappop(heap)
                continue
            rate = bound if ask.flat else ask.rate(bid)
            beats = best is None or (rate, seq) < (best_rate, best_seq)
            if beats and rate <= limit and fits(ask, bid, rate):
                best, best_rate, best_seq = ask, rate, seq
            if (following := next(walk, None)) is None:
                heappop(heap)
            else:
                bound = following.lead_hour * lead_milli
                heapreplace(heap, (bound, following.seq, limit, following, walk))
        return best

    def _heads(self, bid: BidView) -> list[tuple[int, int, int, AskView, Iterator[AskView]]]:
        heap = []
        for name, limit in bid.limits.items():
            if (tier := self.tiers.get(name)) is None:
                continue
            for bucket in tier.buckets_of(bid.shape):
                if not bucket.prices:
                    continue
                bound = bucket.prices[0] * bid.lead_milli
                if bound <= limit.rate:  # a level holds at least one live ask
                    walk = bucket.walk()
                    first = next(walk)
                    heap.append((bound, first.seq, limit.rate, first, walk))
        if len(heap) > 1:
            heapify(heap)
        return heap

    def bids_for(self, asks: Sequence[AskView]) -> Iterator[BidView]:
        """Resting bids that may search the bucket of any of these asks, by priority, each once.

        A bid that accepts several tiers stands at its best place. Ends where limits fall below the
        cheapest of the asks.
        """
        cheapest = min((ask.lead_hour for ask in asks), default=0)
        queues: dict[int, BidQueue] = {}
        for ask in asks:
            for queue in self.tiers[ask.ask.tier].queues_of(ask.key):
                if queue.reaches(cheapest):
                    queues[id(queue)] = queue
        if not queues:
            return
        seen: set[int] = set()
        for limit, _, bid in merge(*(q.walk() for q in queues.values()), reverse=True):
            if limit < cheapest * _PRICE_UNITS:
                return
            if bid.live and bid.seq not in seen:
                seen.add(bid.seq)
                yield bid
