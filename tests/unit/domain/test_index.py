"""What the index keeps: nothing twice, and no more dead entries than living ones for long."""

from marketplace.domain.index import Bucket, Index
from marketplace.domain.matching import AskView, BidView
from marketplace.domain.order import BookMarket
from marketplace.domain.placing import NodeUse
from tests.factories import NANO, resting_ask, resting_bid


def view(number: int, price: int = NANO) -> AskView:
    return AskView(resting_ask(number, price=price), NodeUse())


def test_ask_that_left_and_came_back_is_there_once() -> None:
    ask, other = view(1), view(2)
    bucket = Bucket(ask.key)
    for entry in (ask, other):
        bucket.add(entry)
    bucket.remove(ask)
    bucket.add(ask)
    level = bucket.levels[NANO]
    assert (level.asks, level.dead) == ([ask, other], 0)
    assert list(bucket.walk()) == [ask, other]


def test_ask_that_comes_back_takes_its_old_place_in_line() -> None:
    asks = [view(number) for number in range(40)]
    bucket = Bucket(asks[0].key)
    for ask in asks:
        bucket.add(ask)
    for ask in asks[:30]:
        bucket.remove(ask)
    assert len(bucket.levels[NANO].asks) < 40
    bucket.add(asks[3])
    assert [ask.seq for ask in bucket.walk()] == [3, *range(30, 40)]


def test_level_without_asks_is_gone() -> None:
    ask, dear = view(1), view(2, 2 * NANO)
    bucket = Bucket(ask.key)
    for entry in (ask, dear):
        bucket.add(entry)
    bucket.remove(ask)
    assert bucket.prices == [2 * NANO]
    assert not ask.in_level


def test_queue_sweeps_the_dead() -> None:
    index, market = Index(), BookMarket()
    bids = [BidView(resting_bid(number), market) for number in range(100)]
    for bid in bids:
        index.add_bid(bid)
    for bid in bids[1:]:
        index.remove_bid(bid)
        index.sweep(bid)
    [queue] = index.tiers[bids[0].bid.limits[0].tier].queues.values()
    assert [item[2] for item in queue.walk()] == [bids[0]]
    assert len(queue.bids) <= 2 * 16 + 2
