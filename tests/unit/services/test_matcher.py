"""The matcher: replay gives the same fills, a failed write leaves none, two match as one."""

import random
from typing import Any

import pytest
from sqlmodel import delete

from marketplace.db.tables import BookSnapshotRow, LeaseRow, OrderEntryRow
from marketplace.domain.order import Filled
from marketplace.domain.snapshot import book_hash
from marketplace.services import bookkeeper
from marketplace.services.bookkeeper import APPLIED, Bookkeeper
from marketplace.services.matcher import Matcher
from tests.databases import rows_of
from tests.market_world import World

REST = {"on_events": ["no-capacity"], "duration": "1h"}


def busy(world: World, seed: int) -> None:
    """A mixed history: asks and jobs come, end, are cancelled and expire."""
    choose = random.Random(seed)  # noqa: S311 - a history, not a secret
    world.fund(1_000)
    asks: list[str] = []
    open_leases: list[str] = []
    for _ in range(40):
        world.clock.advance(choose.randint(0, 20))
        what = choose.random()
        if what < 0.3 or not asks:
            price = f"{choose.randint(10, 35) / 10}"
            node = world.node(gpus=choose.randint(1, 3))
            asks.append(world.ask(node, price, start_limit="1h"))
        elif what < 0.75:
            job_id = world.queue(retry=REST, start_deadline=f"{choose.randint(60, 120)}m")
            if world.job(job_id).state == "matched":
                open_leases.append(world.job(job_id).lease_id or "")
        elif what < 0.85 and open_leases:
            world.chain.mine()
            lease_id = open_leases.pop(0)
            if world.lease(lease_id).state == "active":
                world.use(lease_id, 0, 0)
                world.end(lease_id, 1, 0)
        else:
            with world.database.write() as store:
                caller = world.caller(world.provider)
                world.catalog.asks.cancel(store, caller, choose.choice(asks))
        world.match()
    world.chain.mine()
    world.match()


def fills_of(world: World) -> list[tuple[Any, ...]]:
    with world.database.read() as store:
        return [
            (f.seq, f.bid_id, f.ask_id, f.rate, tuple(f.gpus)) for f in rows_of(store, LeaseRow)
        ]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_replaying_the_order_log_gives_the_same_fills(world: World, seed: int) -> None:
    busy(world, seed)
    stored = fills_of(world)
    assert len(stored) >= 5
    keeper = Bookkeeper(world.catalog.market, world.database)
    replayed = []
    with world.database.read() as store:
        with keeper.leading(store, 0):
            for row in rows_of(store, OrderEntryRow):
                fills = [event.fill for event in keeper.take(row) if isinstance(event, Filled)]
                replayed += [(row.seq, f.bid_id, f.ask_id, f.terms.rate, f.gpus) for f in fills]
    assert sorted(replayed) == sorted(stored)


def test_book_started_from_a_snapshot_goes_on_as_the_replayed_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bookkeeper, "SNAPSHOT_ROWS", 1)
    busy(world, 1)
    keeper = world.catalog.matcher.books
    assert keeper.save()
    assert not keeper.save()  # nothing came since
    snapshot_seq = keeper.applied
    busy(world, 2)
    fresh = Bookkeeper(world.catalog.market, world.database)
    replayed = Bookkeeper(world.catalog.market, world.database)
    with fresh.view() as book:
        hash_from_snapshot = book_hash(book)
    with world.database.write() as store:
        assert [row.seq for row in rows_of(store, BookSnapshotRow)] == [snapshot_seq]
        store.session.exec(delete(BookSnapshotRow))
    with replayed.view() as book:
        assert book_hash(book) == hash_from_snapshot
    with keeper.view() as book:
        assert book_hash(book) == hash_from_snapshot
    assert fresh.applied == replayed.applied == keeper.applied


def test_view_shows_the_book_up_to_what_the_matcher_has_decided(world: World) -> None:
    first, second = world.ask(), world.ask()
    world.do(world.catalog.asks.cancel, world.provider, first)
    follower = Bookkeeper(world.catalog.market, world.database)
    with follower.view() as book:
        assert {ask.order.id for ask in book.asks()} == {first, second}
    world.match()
    with follower.view() as book:
        assert {ask.order.id for ask in book.asks()} == {second}


def other_matcher(world: World) -> Matcher:
    catalog = world.catalog
    return Matcher(
        catalog.market,
        world.clock,
        world.database,
        Bookkeeper(catalog.market, world.database),
        catalog.quotes,
        catalog.matcher.calls,
        catalog.matcher.lives,
    )


def test_a_matcher_that_starts_later_goes_on_where_the_other_stopped(world: World) -> None:
    world.offer(world.node(gpus=2))
    world.queue()
    second = other_matcher(world)
    assert second.tick() == 0
    world.submit()
    third = world.submit(retry=REST)
    assert second.tick() == 2
    assert world.catalog.matcher.tick() == 0
    assert len(fills_of(world)) == 2
    assert world.job(third).state == "queued"


def test_a_write_that_fails_leaves_no_fill_and_is_done_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.offer()
    job_id = world.submit()
    real = Matcher._open_call

    def broken(*arguments: Any) -> dict[str, object]:
        raise RuntimeError("disk full")

    monkeypatch.setattr(Matcher, "_open_call", broken)
    with pytest.raises(RuntimeError):
        world.catalog.matcher.tick()
    assert (world.job(job_id).state, fills_of(world)) == ("queued", [])
    with world.database.read() as store:
        assert store.marks.need(APPLIED).value == 1  # the ask, and not the bid
    monkeypatch.setattr(Matcher, "_open_call", real)
    world.match()
    assert (world.job(job_id).state, len(fills_of(world))) == ("matched", 1)


def test_shares_fill_one_gpu_and_never_more(world: World) -> None:
    world.offer()
    jobs = [world.submit(resources={"gpu": "H100:0.4"}) for _ in range(3)]
    world.match()
    assert [world.job(job_id).state for job_id in jobs] == ["matched", "matched", "no_match"]
    with world.database.read() as store:
        assert [(f.gpus, f.rate) for f in rows_of(store, LeaseRow)] == [([0], 10**12)] * 2
