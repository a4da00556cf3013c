"""The book written the slow, plain way: lists, linear scans, every rule spelled out once more."""

from dataclasses import dataclass, field, replace

from marketplace.domain.order import BookMarket, NodeFacts, RestingAsk, RestingBid
from settlement.orders import Bid
from settlement.units import Sizes

Place = tuple[str, int]
Said = tuple[object, ...]


@dataclass
class Lease:
    bid: Bid
    sizes: Sizes
    gpus: tuple[int, ...]


@dataclass
class NaiveBook:
    """Says the same as `Book` about the same commands, as tuples."""

    market: BookMarket
    now: int = 0
    asks: list[RestingAsk] = field(default_factory=list)
    started: set[str] = field(default_factory=set)
    bids: list[tuple[RestingBid, int]] = field(default_factory=list)
    paused: dict[str, int] = field(default_factory=dict)
    leases: dict[tuple[str, str], tuple[Place, Lease]] = field(default_factory=dict)
    said: list[Said] = field(default_factory=list)

    def leases_on(self, place: Place) -> list[Lease]:
        return [lease for where, lease in self.leases.values() if where == place]

    def used_on_gpu(self, place: Place, gpu: int) -> int:
        here = [lease.bid.gpu_milli for lease in self.leases_on(place) if gpu in lease.gpus]
        return sum(min(1000, milli) for milli in here)

    def place(self, ask: RestingAsk, bid: Bid) -> tuple[int, ...] | None:
        where, offered = (ask.ask.provider, ask.ask.node), ask.ask
        takes = self.takes(ask, bid)
        for name in ("gpu_milli", "cpu_milli", "memory_mib", "storage_mib"):
            used = sum(getattr(lease.sizes, name) for lease in self.leases_on(where))
            there = getattr(offered, name)
            if name != "gpu_milli":
                there = min(there, getattr(ask.node, name))
            if used + getattr(takes, name) > there:
                return None
        if bid.gpu_milli == 0:
            return ()
        sizes = [1000] * (offered.gpu_milli // 1000)
        if offered.gpu_milli % 1000:
            sizes.append(offered.gpu_milli % 1000)
        if bid.gpu_milli >= 1000:
            idle = [i for i, size in enumerate(sizes) if size == 1000]
            idle = [i for i in idle if self.used_on_gpu(where, i) == 0]
            count = bid.gpu_milli // 1000
            return tuple(idle[:count]) if len(idle) >= count else None
        room = [
            (-self.used_on_gpu(where, i), i)
            for i, size in enumerate(sizes)
            if self.used_on_gpu(where, i) + bid.gpu_milli <= size
        ]
        return (min(room)[1],) if room else None

    def takes(self, ask: RestingAsk, bid: Bid) -> Sizes:
        """What the lease takes: of what the bid leaves open, as much as of the GPUs."""
        sizes = {"cpu_milli": 0, "memory_mib": 0, "storage_mib": 0}
        for name in sizes:
            sizes[name] = getattr(bid, name)
            if sizes[name] == 0 and bid.gpu_milli > 0:
                sizes[name] = getattr(ask.ask, name) * bid.gpu_milli // ask.ask.gpu_milli
        return Sizes(bid.gpu_milli, **sizes)

    def rate(self, ask: RestingAsk, bid: Bid) -> int:
        floor = ask.ask.floor
        mib = floor.memory_gib_hour * bid.memory_mib + floor.storage_gib_hour * bid.storage_mib
        return floor.gpu_hour * bid.gpu_milli + floor.cpu_hour * bid.cpu_milli + mib * 1000 // 1024

    def fits(self, ask: RestingAsk, order: RestingBid) -> bool:
        a, b, wants, node = ask.ask, order.bid, order.wants, ask.node
        limit = next((x for x in b.limits if x.tier == a.tier), None)
        if limit is None or self.rate(ask, b) > limit.rate:
            return False
        shared = bool(a.flags & 1) and bool(b.flags & 1)
        least = max(1, a.min_seconds)
        budget = b.budget if order.budget_left is None else order.budget_left
        regions = wants.regions
        counted = a.floor.egress_gib * b.egress_mib + a.floor.unit * b.units * 1024
        counted = -(-counted * 10**18 // (1024 * 10**9))
        locked = -(-self.rate(ask, b) * least * 10**18 // (3600 * 10**12)) + counted
        return all(
            (
                ask.id in self.started,
                ask.id not in order.tried,
                (order.id, ask.id) not in self.leases,
                node.runtime == wants.runtime,
                not regions or any((node.region + "-").startswith(r + "-") for r in regions),
                b.gpu_milli >= 1000 or b.gpu_milli == 0 or shared,
                b.gpu_milli > 0 or (a.flags & 2 and b.flags & 2),
                not a.flags & 4 or b.flags & 4,
                not a.flags & 4 or a.notice_seconds >= b.min_notice_seconds,
                a.gpu_milli >= b.gpu_milli,
                node.verified or not wants.verified_only,
                node.reliability_milli >= wants.min_reliability_milli,
                b.witness not in (a.provider, a.meter),
                b.units == 0 or a.unit == b.unit,
                a.min_seconds <= b.max_seconds <= a.max_seconds,
                a.start_limit_seconds <= min(wants.start_deadline_seconds, b.max_start_seconds),
                b.egress_mib == 0 or a.floor.egress_gib <= limit.egress_gib,
                b.units == 0 or a.floor.unit <= limit.unit,
                locked <= budget,
                self.place(ask, b) is not None,
            )
        )

    def best(self, order: RestingBid) -> RestingAsk | None:
        fitting = [ask for ask in self.asks if self.fits(ask, order)]
        return min(fitting, key=lambda a: (self.rate(a, order.bid), a.seq), default=None)

    def take(self, order: RestingBid, ask: RestingAsk) -> None:
        gpus = self.place(ask, order.bid)
        assert gpus is not None
        where, sizes = (ask.ask.provider, ask.ask.node), self.takes(ask, order.bid)
        self.leases[order.id, ask.id] = (where, Lease(order.bid, sizes, gpus))
        self.said.append(("filled", order.id, ask.id, self.rate(ask, order.bid), gpus))

    def offer(self, tiers: set[bytes]) -> None:
        """Resting bids that accept one of the tiers, which their kind has one of, search the whole
        book: the best limit per GPU, or per core if they want none, comes first."""

        def priority(item: tuple[RestingBid, int]) -> tuple[int, int]:
            bid = item[0].bid
            limit = next(x.rate for x in bid.limits if x.tier in tiers)
            return (-(limit * 10**6 // (bid.gpu_milli or bid.cpu_milli)), item[0].seq)

        waiting = [i for i in self.bids if any(x.tier in tiers for x in i[0].bid.limits)]
        waiting = [i for i in waiting if i[0].bid.buyer not in self.paused]
        for item in sorted(waiting, key=priority):
            ask = self.best(item[0])
            if ask is not None:
                self.bids.remove(item)
                self.take(item[0], ask)

    def start(self, ask: RestingAsk) -> None:
        self.started.add(ask.id)
        self.offer({ask.ask.tier})

    # Commands

    def pass_time(self, at: int) -> None:
        if at <= self.now:
            return
        self.now = at
        for ask in sorted(self.asks, key=lambda a: (a.ask.expiry, a.seq)):
            if ask.ask.expiry < at:
                self.asks.remove(ask)
                self.said.append(("removed", ask.id, "expired"))
        for item in sorted(self.bids, key=lambda i: (min(i[1], i[0].bid.expiry), i[0].seq)):
            order, deadline = item
            if min(deadline, order.bid.expiry) < at:
                self.bids.remove(item)
                late = order.bid.expiry > deadline
                self.said.append(
                    ("removed", order.id, "start_deadline_passed" if late else "expired")
                )
        for ask in sorted(self.asks, key=lambda a: (a.ask.starts_at, a.seq)):
            if ask.id not in self.started and ask.ask.starts_at <= at:
                self.start(ask)
        for buyer in sorted(self.paused, key=lambda b: (self.paused[b], b)):
            if self.paused[buyer] <= at:
                self.resume(buyer)

    def resume(self, buyer: str) -> None:
        self.paused.pop(buyer, None)
        for item in sorted(self.bids, key=lambda i: i[0].seq):
            found = self.best(item[0]) if item[0].bid.buyer == buyer else None
            if found is not None:
                self.bids.remove(item)
                self.take(item[0], found)

    def pause(self, buyer: str, until: int) -> None:
        if until > self.now:
            self.paused[buyer] = until
        else:
            self.resume(buyer)

    def add_ask(self, ask: RestingAsk) -> None:
        self.asks.append(ask)
        self.said.append(("rested", ask.id))
        if ask.ask.starts_at <= self.now:
            self.start(ask)

    def cancel_ask(self, ask_id: str) -> None:
        self.asks = [ask for ask in self.asks if ask.id != ask_id]
        self.said.append(("removed", ask_id, "cancelled"))

    def add_bid(self, order: RestingBid) -> None:
        ask = None if order.bid.buyer in self.paused else self.best(order)
        if ask is not None:
            self.take(order, ask)
        elif order.wants.rests:
            self.bids.append((order, self.now + order.wants.start_deadline_seconds))
            self.said.append(("rested", order.id))
        else:
            self.said.append(("refused", order.id, "no_match"))

    def cancel_bid(self, bid_id: str) -> None:
        self.bids = [item for item in self.bids if item[0].id != bid_id]
        self.said.append(("removed", bid_id, "cancelled"))

    def free(self, key: tuple[str, str]) -> None:
        place, _ = self.leases.pop(key)
        here = [a for a in self.asks if (a.ask.provider, a.ask.node) == place]
        self.offer({ask.ask.tier for ask in here})

    def set_node(self, place: Place, facts: NodeFacts) -> None:
        here = [i for i, a in enumerate(self.asks) if (a.ask.provider, a.ask.node) == place]
        for index in here:
            self.asks[index] = replace(self.asks[index], node=facts)
        self.offer({self.asks[index].ask.tier for index in here})
