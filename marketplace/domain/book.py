"""The book: resting asks and bids, and what each command does to them.

Commands are applied one at a time and carry the time (Unix seconds), so the same commands give the
same events wherever and whenever they are replayed. A bid takes the fitting ask of the lowest
all-in rate, the earliest of equals, at the ask's prices. Supply that appears later (a new ask,
freed capacity, an ask that starts) goes to resting bids by limit per GPU (or core), then arrival.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from heapq import heapify, heappop, heappush
from typing import Any

from marketplace.domain.index import Index
from marketplace.domain.matching import (
    AskView,
    BidView,
    bucket_key,
    find_room,
    offered_of,
    rate_if_match,
    sizes_for,
)
from marketplace.domain.order import (
    AddAsk,
    AddBid,
    BookMarket,
    CancelAsk,
    CancelBid,
    Cause,
    Command,
    Event,
    Fill,
    Filled,
    Free,
    Hold,
    Pause,
    Refused,
    RejectReason,
    Removed,
    Rested,
    RestingAsk,
    RestingBid,
    SetNode,
    Tick,
)
from marketplace.domain.placing import NodeUse, is_gpu_size
from settlement.eip712 import ZERO_ADDRESS
from settlement.orders import FLAG_NO_GPU, terms_of
from settlement.units import Sizes


class Book:
    """One market's orders in memory. Not thread-safe: one matcher owns it."""

    def __init__(self, market: BookMarket | None = None) -> None:
        self.market = market or BookMarket()
        self.now = 0
        self._index = Index()
        self._asks: dict[str, AskView] = {}
        self._bids: dict[str, BidView] = {}
        self.nodes: dict[tuple[str, int], NodeUse] = defaultdict(NodeUse)  # what leases hold
        self._asks_on: dict[tuple[str, int], list[AskView]] = {}
        self._node_of: dict[tuple[str, str], tuple[str, int]] = {}
        self._held_by: dict[str, set[str]] = {}
        self._ask_ends: list[tuple[int, int, str]] = []
        self._bid_ends: list[tuple[int, int, str]] = []
        self._starts: list[tuple[int, int, str]] = []
        self.paused: dict[str, int] = {}  # buyers whose bids match nothing, and until when
        self._handlers: dict[type[Any], Callable[[Any, list[Event]], None]] = {
            AddAsk: self._add_ask,
            CancelAsk: self._cancel_ask,
            AddBid: self._add_bid,
            CancelBid: self._cancel_bid,
            Free: self._free,
            SetNode: self._set_node,
            Pause: self._pause,
            Tick: lambda _command, _events: None,
        }

    def apply(self, command: Command) -> list[Event]:
        """Do one command and say everything it did, in order. Time never goes back."""
        events: list[Event] = []
        if command.at > self.now:
            self.now = command.at
            self._pass_time(events)
        self._handlers[type(command)](command, events)
        return events

    # What rests, for views and explanations

    def asks(self) -> Iterator[AskView]:
        """Every ask in the book, also full ones and ones that have not started."""
        return iter(self._asks.values())

    def bids(self) -> Iterator[BidView]:
        """Every resting bid."""
        return iter(self._bids.values())

    def view(self, order: RestingBid) -> BidView:
        """A bid as the search sees it, without adding it."""
        return BidView(order, self.market)

    def quote(self, order: RestingBid, most: int = 20) -> list[Fill]:
        """What up to `most` fitting asks would give the bid now, best first; nothing changes."""
        bid = self.view(order)
        tried = order.tried
        found: list[Fill] = []
        while len(found) < most and (ask := self._index.best(bid)) is not None:
            fill = self._fill(bid, ask)
            found.append(fill)
            tried |= {fill.ask_id}
            bid.order = replace(order, tried=tried)
        return found

    def holds(self) -> Iterator[Hold]:
        """What every open lease holds."""
        for key, place in self._node_of.items():
            placed = self.nodes[place].leases[key]
            yield Hold(*key, *place, placed.sizes, placed.gpus)

    def next_time(self) -> int | None:
        """The first time at which a `Tick` may change something; None: time changes nothing."""
        times = [heap[0][0] + 1 for heap in (self._ask_ends, self._bid_ends) if heap]
        if self._starts:
            times.append(self._starts[0][0])
        return min((*times, *self.paused.values()), default=None)

    # Commands

    def _add_ask(self, command: AddAsk, events: list[Event]) -> None:
        order, ask = command.order, command.order.ask
        if (reason := self._refuse_ask(order)) is not None:
            events.append(Refused(order.id, reason))
            return
        view = self._put_ask(order)
        events.append(Rested(order.id))
        if ask.starts_at > self.now:
            heappush(self._starts, (ask.starts_at, order.seq, order.id))
        else:
            self._start(view, events)

    def _put_ask(self, order: RestingAsk) -> AskView:
        ask, place = order.ask, (order.ask.provider, order.ask.node)
        view = self._asks[order.id] = AskView(order, self.nodes[place])
        self._asks_on.setdefault(place, []).append(view)
        heappush(self._ask_ends, (ask.expiry, order.seq, order.id))
        return view

    def _refuse_ask(self, order: RestingAsk) -> RejectReason | None:
        ask = order.ask
        if order.id in self._asks:
            return RejectReason.DUPLICATE
        if bool(ask.flags & FLAG_NO_GPU) is (ask.gpu_milli > 0):
            return RejectReason.GPU_SIZE
        if ask.gpu_milli % 1000 and not order.shared:
            return RejectReason.GPU_SIZE
        return self._refuse_order(ask.expiry, ask.max_fee_bps, ask.opener)

    def _refuse_order(self, expiry: int, max_fee_bps: int, opener: str) -> RejectReason | None:
        if expiry < self.now:
            return RejectReason.EXPIRED
        if max_fee_bps < self.market.fee_bps:
            return RejectReason.FEE
        return None if opener in (ZERO_ADDRESS, self.market.opener) else RejectReason.OPENER

    def _start(self, ask: AskView, events: list[Event]) -> None:
        ask.started = True
        if not ask.use.is_full_for(ask.offered):
            self._index.add_ask(ask)
            self._offer([ask], events)

    def _cancel_ask(self, command: CancelAsk, events: list[Event]) -> None:
        if (ask := self._asks.get(command.ask_id)) is None:
            events.append(Refused(command.ask_id, RejectReason.UNKNOWN_ORDER))
        else:
            self._drop_ask(ask, Cause.CANCELLED, events)

    def _drop_ask(self, ask: AskView, cause: Cause, events: list[Event]) -> None:
        if ask.live:
            self._index.remove_ask(ask)
        place = (ask.ask.provider, ask.ask.node)
        del self._asks[ask.order.id]
        self._asks_on[place].remove(ask)
        self._forget_idle(place)
        self._ask_ends = _without_gone(self._ask_ends, self._asks)
        events.append(Removed(ask.order.id, cause))

    def _forget_idle(self, place: tuple[str, int]) -> None:
        if not self._asks_on.get(place) and not self.nodes[place].leases:
            self._asks_on.pop(place, None)
            del self.nodes[place]

    def _add_bid(self, command: AddBid, events: list[Event]) -> None:
        order = command.order
        if (reason := self._refuse_bid(order)) is not None:
            events.append(Refused(order.id, reason))
            return
        if held := self._held_by.get(order.id):  # a pair has one lease, whatever the caller says
            order = replace(order, tried=order.tried.union(held))
        bid = BidView(order, self.market)
        waits = order.bid.buyer in self.paused
        if not waits and (ask := self._index.best(bid)) is not None:
            self._take(bid, ask, events)
        elif not order.wants.rests:
            events.append(Refused(order.id, RejectReason.NO_MATCH))
        else:
            deadline = self.now + order.wants.start_deadline_seconds
            self._put_bid(bid, min(deadline, order.bid.expiry))
            events.append(Rested(order.id))

    def _put_bid(self, bid: BidView, ends: int) -> None:
        self._bids[bid.order.id] = bid
        bid.ends = ends
        if bid.bid.buyer not in self.paused:
            self._index.add_bid(bid)
        heappush(self._bid_ends, (ends, bid.order.seq, bid.order.id))

    def _refuse_bid(self, order: RestingBid) -> RejectReason | None:
        bid = order.bid
        if order.id in self._bids:
            return RejectReason.DUPLICATE
        if bid.nodes != 1:
            return RejectReason.NODES
        without_gpu = bool(bid.flags & FLAG_NO_GPU)
        if not is_gpu_size(bid.gpu_milli) or without_gpu is (bid.gpu_milli > 0):
            return RejectReason.GPU_SIZE
        if without_gpu and not bid.cpu_milli:
            return RejectReason.CPU
        return self._refuse_order(bid.expiry, bid.max_fee_bps, bid.opener)

    def _cancel_bid(self, command: CancelBid, events: list[Event]) -> None:
        if (bid := self._bids.get(command.bid_id)) is None:
            events.append(Refused(command.bid_id, RejectReason.UNKNOWN_ORDER))
        else:
            self._drop_bid(bid)
            self._index.sweep(bid)
            events.append(Removed(command.bid_id, Cause.CANCELLED))

    def _pause(self, command: Pause, events: list[Event]) -> None:
        """Set a buyer's resting bids aside. They keep their deadlines, and their turn by arrival
        when the pause ends. Another pause takes the place of the last."""
        buyer, was_paused = command.buyer, command.buyer in self.paused
        if command.until <= self.now:
            if was_paused:
                self._resume(buyer, events)
            return
        self.paused[buyer] = command.until
        if not was_paused:
            self._index.set_aside([b for b in self._bids.values() if b.bid.buyer == buyer])

    def _resume(self, buyer: str, events: list[Event]) -> None:
        """Let a buyer's bids match again, by arrival."""
        del self.paused[buyer]
        waiting = (bid for bid in self._bids.values() if bid.bid.buyer == buyer)
        for bid in sorted(waiting, key=lambda bid: bid.seq):
            if (ask := self._index.best(bid)) is not None:
                self._drop_bid(bid)
                self._take(bid, ask, events)
            else:
                self._index.add_bid(bid)

    def _drop_bid(self, bid: BidView) -> None:
        del self._bids[bid.order.id]
        if bid.live:
            self._index.remove_bid(bid)
        self._bid_ends = _without_gone(self._bid_ends, self._bids)

    def _free(self, command: Free, events: list[Event]) -> None:
        key = (command.bid_id, command.ask_id)
        if (place := self._node_of.pop(key, None)) is None:
            events.append(Refused(command.bid_id, RejectReason.UNKNOWN_ORDER))
            return
        use = self.nodes[place]
        use.free(key)
        self._held_by[command.bid_id].discard(command.ask_id)
        if not self._held_by[command.bid_id]:
            del self._held_by[command.bid_id]
        asks = [a for a in self._asks_on.get(place, ()) if a.started]
        for ask in asks:
            if not ask.live and not use.is_full_for(ask.offered):
                self._index.add_ask(ask)
        self._offer([a for a in asks if a.live], events)
        self._forget_idle(place)

    def _set_node(self, command: SetNode, events: list[Event]) -> None:
        changed = []
        for ask in self._asks_on.get((command.provider, command.node), ()):
            if ask.live:
                self._index.remove_ask(ask)
            ask.order = replace(ask.order, node=command.facts)
            ask.node, ask.offered = command.facts, offered_of(ask.order)
            key = bucket_key(ask.order)
            if key != ask.key:
                self._index.move_ask(ask, key)
            if ask.started and not ask.use.is_full_for(ask.offered):
                self._index.add_ask(ask)
                changed.append(ask)
        self._offer(changed, events)

    # A book from its snapshot: pauses, holds, then asks, then bids, each by arrival

    def restore_pause(self, buyer: str, until: int) -> None:
        """Let a buyer's bids match nothing until a time."""
        self.paused[buyer] = until

    def restore_hold(self, hold: Hold) -> None:
        """Hold the capacity of a lease that is open."""
        key, place = (hold.bid_id, hold.ask_id), (hold.provider, hold.node)
        self._hold(place, key, hold.sizes, hold.gpus)

    def restore_ask(self, order: RestingAsk, started: bool) -> None:
        """Put an ask back; it is offered to nobody, since no resting bid fits it."""
        view = self._put_ask(order)
        view.started = started
        if not started:
            heappush(self._starts, (order.ask.starts_at, order.seq, order.id))
        elif not view.use.is_full_for(view.offered):
            self._index.add_ask(view)

    def restore_bid(self, order: RestingBid, ends: int) -> None:
        """Put a resting bid back; it is matched with nothing, since nothing fits it."""
        self._put_bid(BidView(order, self.market), ends)

    # Matching

    def _offer(self, asks: list[AskView], events: list[Event]) -> None:
        """Offer the supply that appeared to resting bids, until either is used up.

        A resting bid fits nothing else in the book, else it would have been filled before.
        """
        if not self._bids:
            return
        filled = []
        for bid in self._index.bids_for(asks):
            rates = ((rate_if_match(ask, bid), ask.seq, ask) for ask in asks)
            match = min(((r, seq, ask) for r, seq, ask in rates if r is not None), default=None)
            if match is not None:
                self._drop_bid(bid)
                filled.append(bid)
                self._take(bid, match[2], events)
                if not any(ask.live for ask in asks):
                    break
        for bid in filled:
            self._index.sweep(bid)

    def _take(self, bid: BidView, ask: AskView, events: list[Event]) -> None:
        fill = self._fill(bid, ask)
        where, key = (fill.provider, fill.node), (fill.bid_id, fill.ask_id)
        self._hold(where, key, sizes_for(ask, bid), fill.gpus)
        events.append(Filled(fill))

    def _hold(
        self, place: tuple[str, int], key: tuple[str, str], sizes: Sizes, gpus: tuple[int, ...]
    ) -> None:
        use = self.nodes[place]
        use.hold(key, sizes, gpus)
        self._node_of[key] = place
        self._held_by.setdefault(key[0], set()).add(key[1])
        for ask in self._asks_on.get(place, ()):
            if ask.live and use.is_full_for(ask.offered):
                self._index.remove_ask(ask)

    def _fill(self, bid: BidView, ask: AskView) -> Fill:
        signed, floor = ask.ask, ask.ask.floor
        gpus = find_room(ask, bid)
        if gpus is None:
            raise AssertionError("a fill was made without room")
        return Fill(
            bid_id=bid.order.id,
            ask_id=ask.order.id,
            provider=signed.provider,
            node=signed.node,
            node_id=ask.node.node_id,
            tier=signed.tier_name,
            prices=floor,
            terms=terms_of(signed, bid.bid, floor, bid.budget, self.market.decimals),
            gpus=gpus,
            notice_seconds=signed.notice,
        )

    # Time

    def _pass_time(self, events: list[Event]) -> None:
        """Expire what is over, start what begins, then end pauses: each in order of time."""
        while self._ask_ends and self._ask_ends[0][0] < self.now:
            ask = self._asks.get(heappop(self._ask_ends)[2])
            if ask is not None and ask.ask.expiry < self.now:
                self._drop_ask(ask, Cause.EXPIRED, events)
        while self._bid_ends and self._bid_ends[0][0] < self.now:
            end, _, bid_id = heappop(self._bid_ends)
            bid = self._bids.get(bid_id)
            if bid is not None and bid.ends == end:
                self._drop_bid(bid)
                self._index.sweep(bid)
                expired = bid.bid.expiry <= end
                cause = Cause.EXPIRED if expired else Cause.START_DEADLINE
                events.append(Removed(bid_id, cause))
        while self._starts and self._starts[0][0] <= self.now:
            ask = self._asks.get(heappop(self._starts)[2])
            if ask is not None and not ask.started and ask.ask.starts_at <= self.now:
                self._start(ask, events)
        over = sorted((until, buyer) for buyer, until in self.paused.items() if until <= self.now)
        for _, buyer in over:
            self._resume(buyer, events)


def _without_gone(
    ends: list[tuple[int, int, str]], alive: dict[str, Any]
) -> list[tuple[int, int, str]]:
    """The heap itself, or a new one without cancelled orders once they are the most of it."""
    if len(ends) < 64 or len(ends) < 2 * len(alive):
        return ends
    kept = [item for item in ends if item[2] in alive]
    heapify(kept)
    return kept
