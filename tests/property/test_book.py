"""The indexed book against the naive one, command by command; capacity; replay."""

from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from marketplace.domain.book import Book
from marketplace.domain.explain import explain
from marketplace.domain.order import (
    AddAsk,
    AddBid,
    BookMarket,
    CancelAsk,
    CancelBid,
    Command,
    Event,
    Filled,
    Free,
    NodeFacts,
    Pause,
    Refused,
    Removed,
    Rested,
    RestingAsk,
    RestingBid,
    SetNode,
    Tick,
    Wants,
)
from marketplace.domain.snapshot import book_hash, capture, decode, encode, restore
from settlement.eip712 import text32
from settlement.orders import Prices, TierLimit
from tests.conftest import NIGHTLY
from tests.factories import A100, H100, NANO, NOW, address, resting_ask, resting_bid
from tests.property.naive_book import NaiveBook, Said

CPU = "CPU"
PLACES = [(address(provider), node) for provider in (1, 2) for node in (1, 2)]
BUYERS = [address(number) for number in (50, 51)]
TIER_OF = dict(zip(PLACES, (H100, H100, H100, A100), strict=True))


def mostly(usual: Any, *rare: Any) -> st.SearchStrategy[Any]:
    """The usual value four times in five: constraints bite now and then, and fills stay common."""
    return st.sampled_from((usual,) * 4 * len(rare) + rare)


facts = st.builds(
    NodeFacts,
    node_id=st.just("node"),
    region=mostly("eu", "eu-west", "us"),
    runtime=mostly("process", "docker"),
    verified=st.booleans(),
    reliability_milli=mostly(1000, 900),
    cpu_milli=mostly(16_000, 6000),
    memory_mib=mostly(131_072, 3072),
    storage_mib=mostly(131_072, 50_000),
)
wants = st.builds(
    Wants,
    regions=mostly((), ("eu",), ("us", "eu-west")),
    runtime=mostly("process", "docker"),
    verified_only=mostly(False, True),
    min_reliability_milli=mostly(0, 950),
    start_deadline_seconds=mostly(600, 30, 60),
    rests=mostly(True, False),
)
prices = st.builds(
    Prices,
    gpu_hour=st.integers(1, 4).map(lambda n: n * NANO),
    cpu_hour=mostly(0, NANO // 4),
    memory_gib_hour=mostly(0, NANO // 10),
    egress_gib=mostly(0, NANO),
    unit=mostly(0, NANO // 100),
)
ask_fields = st.fixed_dictionaries(
    {
        "place": st.sampled_from(PLACES),
        "floor": prices,
        "gpu_milli": st.sampled_from((0, 0, 1000, 2000, 2000, 2500, 4000)),
        "cpu_milli": mostly(8000, 4000),
        "memory_mib": mostly(65_536, 2048),
        "min_seconds": mostly(1, 0, 1800),
        "max_seconds": mostly(7200, 3600),
        "start_limit_seconds": mostly(10, 60),
        "shared": st.booleans(),
        "notice_seconds": mostly(None, 0, 60, 300),
        "unit": mostly("request", ""),
        "starts_in": mostly(0, 100),
        "lives": mostly(10_000, 50),
    }
)
bid_fields = st.fixed_dictionaries(
    {
        "wants": wants,
        "gpu_milli": st.sampled_from((0, 0, 250, 400, 1000, 1000, 2000, 3000)),
        "cpu_milli": mostly(500, 5000, 0),
        "memory_mib": mostly(1024, 4096, 0),
        "storage_mib": mostly(0, 1024, 40_000),
        "min_notice_seconds": mostly(None, 0, 60, 300),
        "max_seconds": mostly(3600, 600, 7200),
        "max_start_seconds": mostly(600, 30),
        "budget": mostly(10**20, 10**18, 5 * 10**17),
        "units": mostly(0, 5),
        "egress_mib": mostly(0, 512),
        "lives": mostly(10_000, 50),
        "buyer": st.sampled_from(BUYERS),
        "limits": st.lists(
            st.tuples(st.sampled_from((H100, A100)), st.integers(1, 4), st.booleans()),
            min_size=1,
            max_size=2,
        ),
    }
)


def plain(event: Event) -> Said:
    """An event as the naive book says it."""
    match event:
        case Filled(fill):
            return ("filled", fill.bid_id, fill.ask_id, fill.terms.rate, fill.gpus)
        case Rested(order_id):
            return ("rested", order_id)
        case Refused(order_id, reason):
            return ("refused", order_id, str(reason))
        case Removed(order_id, cause):
            return ("removed", order_id, str(cause))


class BookMachine(RuleBasedStateMachine):
    """Feeds both books the same commands and keeps everything that was said."""

    def __init__(self) -> None:
        super().__init__()
        market = BookMarket(fee_bps=100)
        self.book, self.naive = Book(market), NaiveBook(market)
        self.commands: list[Command] = []
        self.events: list[list[Event]] = []
        self.now = NOW
        self.count = 0
        self.apply(Tick(NOW))

    def apply(self, command: Command) -> list[Event]:
        self.commands.append(command)
        events = self.book.apply(command)
        self.events.append(events)
        self.naive.said.clear()
        self.naive.pass_time(command.at)
        match command:
            case AddAsk(_, order):
                self.naive.add_ask(order)
            case CancelAsk(_, ask_id):
                self.naive.cancel_ask(ask_id)
            case AddBid(_, bid):
                self.naive.add_bid(bid)
            case CancelBid(_, bid_id):
                self.naive.cancel_bid(bid_id)
            case Free(_, bid_id, ask_id):
                self.naive.free((bid_id, ask_id))
            case Pause(_, buyer, until):
                self.naive.pause(buyer, until)
            case SetNode(_, provider, node, node_facts):
                self.naive.set_node((provider, node), node_facts)
        assert [plain(event) for event in events] == self.naive.said
        return events

    most_of: ClassVar = {"cpu_milli": 16_000, "memory_mib": 131_072, "storage_mib": 131_072}
    """More no node ever has."""

    @initialize(asks=st.lists(st.tuples(ask_fields, facts), min_size=3, max_size=6))
    def open_with(self, asks: list[tuple[dict[str, Any], NodeFacts]]) -> None:
        for fields, node in asks:
            self.add_ask(fields, node)

    @rule(bids=st.lists(bid_fields, min_size=1, max_size=4))
    def add_bids(self, bids: list[dict[str, Any]]) -> None:
        for fields in bids:
            self.add_bid(fields)

    @rule(fields=ask_fields, node=facts)
    def add_ask(self, fields: dict[str, Any], node: NodeFacts) -> None:
        self.count += 1
        changes = dict(fields)
        changes["provider"], changes["node"] = place = changes.pop("place")
        if changes["gpu_milli"] % 1000:
            changes["shared"] = True
        shared, notice = changes.pop("shared"), changes.pop("notice_seconds")
        without = changes["gpu_milli"] == 0
        order = resting_ask(
            self.count,
            meter=address(100 + self.count),
            tier=CPU if without else TIER_OF[place],
            flags=shared | 2 * without | 4 * (notice is not None),
            notice_seconds=notice or 0,
            starts_at=self.now + changes.pop("starts_in"),
            expiry=self.now + changes.pop("lives"),
            **changes,
        )
        order = RestingAsk(order.id, order.ask, node, order.seq)
        self.apply(AddAsk(self.now, order))

    def add_bid(self, fields: dict[str, Any]) -> None:
        self.count += 1
        order = self.bid(self.count, dict(fields))
        quoted = [fill.ask_id for fill in self.book.quote(order, 1000)]
        explained = explain(self.book, order)
        events = self.apply(AddBid(self.now, order))
        filled = [event.fill.ask_id for event in events if isinstance(event, Filled)]
        assert filled == ([] if order.bid.buyer in self.naive.paused else quoted[:1])
        left = explained.eliminations[-1].left if explained.eliminations else explained.considered
        assert left == len(quoted)
        assert sum(e.in_turn for e in explained.eliminations) == explained.considered - left

    def bid(self, number: int, changes: dict[str, Any]) -> RestingBid:
        gpu_milli, notice = changes["gpu_milli"], changes.pop("min_notice_seconds")
        if not gpu_milli:
            changes["cpu_milli"] = changes["cpu_milli"] or 750
        changes["flags"] = (0 < gpu_milli < 1000) | 2 * (not gpu_milli) | 4 * (notice is not None)
        changes["min_notice_seconds"] = notice or 0
        counted = NANO if changes["units"] or changes["egress_mib"] else 0
        limits = tuple(
            TierLimit(
                text32(tier if gpu_milli else CPU),
                price * NANO * (gpu_milli or changes["cpu_milli"] // 4),
                counted * pays,
                counted * pays,
            )
            for tier, price, pays in changes.pop("limits")
        )
        unit = "request" if changes["units"] else ""
        expiry = self.now + changes.pop("lives")
        return resting_bid(number, limits=limits, unit=unit, expiry=expiry, **changes)

    @precondition(lambda self: self.naive.asks)
    @rule(data=st.data())
    def cancel_ask(self, data: st.DataObject) -> None:
        ask = data.draw(st.sampled_from([ask.id for ask in self.naive.asks]))
        self.apply(CancelAsk(self.now, ask))

    @precondition(lambda self: self.naive.bids)
    @rule(data=st.data())
    def cancel_bid(self, data: st.DataObject) -> None:
        bid = data.draw(st.sampled_from([order.id for order, _ in self.naive.bids]))
        self.apply(CancelBid(self.now, bid))

    @precondition(lambda self: self.naive.leases)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        bid, ask = data.draw(st.sampled_from(sorted(self.naive.leases)))
        self.apply(Free(self.now, bid, ask))

    @rule(place=st.sampled_from(PLACES), node=facts)
    def set_node(self, place: tuple[str, int], node: NodeFacts) -> None:
        self.apply(SetNode(self.now, *place, node))

    @rule(buyer=st.sampled_from(BUYERS), seconds=st.sampled_from((0, 1, 30, 90)))
    def pause(self, buyer: str, seconds: int) -> None:
        self.apply(Pause(self.now, buyer, self.now + seconds))

    @rule(seconds=st.sampled_from((1, 20, 45, 120)))
    def tick(self, seconds: int) -> None:
        self.now += seconds
        self.apply(Tick(self.now))

    @rule()
    def restart(self) -> None:
        """Go on with a book that came from a snapshot: nobody can tell."""
        state = decode(encode(capture(self.book)))
        assert state is not None
        before = book_hash(self.book)
        self.book = restore(state, self.book.market)
        assert book_hash(self.book) == before

    @invariant()
    def capacity_is_never_exceeded(self) -> None:
        for place in PLACES:
            use = self.book.nodes.get(place)
            leases = self.naive.leases_on(place)
            if use is None:
                assert leases == []
                continue
            assert use.gpu_milli == sum(lease.bid.gpu_milli for lease in leases)
            for name in ("cpu_milli", "memory_mib", "storage_mib"):
                taken = sum(getattr(lease.sizes, name) for lease in leases)
                assert taken == getattr(use, name) <= self.most_of[name]
            assert all(milli <= 1000 for milli in use.on_gpu)
            for gpu, milli in enumerate(use.on_gpu):
                holders = [lease for lease in leases if gpu in lease.gpus]
                assert milli == sum(min(1000, lease.bid.gpu_milli) for lease in holders)
                assert len(holders) <= 1 or all(h.bid.gpu_milli < 1000 for h in holders)

    def teardown(self) -> None:
        replayed = Book(BookMarket(fee_bps=100))
        assert [replayed.apply(command) for command in self.commands] == self.events
        assert book_hash(replayed) == book_hash(self.book)


TestBook = pytest.mark.timeout(1800 if NIGHTLY else 120)(BookMachine.TestCase)
TestBook.settings = settings(
    max_examples=1500 if NIGHTLY else 60, stateful_step_count=50, deadline=None
)
