"""What leases that ended say of a provider, and that jobs are matched by it."""

from typing import Any

import pytest

from marketplace.db.tables import AskRow, NodeRow
from marketplace.domain.life import BROKEN_REASONS, StopReason
from marketplace.services.lives import lease_life
from marketplace.services.views import ask_view, node_view
from tests.databases import rows_of
from tests.market_world import World

PICKY = {"placement": {"min_reliability": "0.95"}}


def facts(world: World) -> set[int]:
    """The reliability of every node, as stored and as in the book."""
    world.match()
    with world.database.read() as store:
        stored = {node.reliability_milli for node in rows_of(store, NodeRow)}
    with world.catalog.matcher.books.view() as book:
        assert {ask.node.reliability_milli for ask in book.asks()} == stored
    return stored


def run(world: World, **changes: Any) -> str:
    """A job of a few seconds, closed on chain; its lease."""
    return world.run(3, **changes)[1]


def lose(world: World) -> str:
    """A job whose provider falls silent."""
    job_id, lease_id = world.open()
    world.use(lease_id, 0, 0)
    world.clock.advance(60)
    world.catalog.watchdog.tick()
    assert world.lease(lease_id).stop_requested == "lost"
    world.halt(lease_id)
    assert world.job(job_id).state == "lost"
    return lease_id


@pytest.fixture
def open_world(world: World) -> World:
    world.offer(world.node(gpus=4))
    return world


def test_newcomer_is_shown_with_its_figure_and_unverified(open_world: World) -> None:
    with open_world.database.read() as store:
        (node,), (ask,) = rows_of(store, NodeRow), rows_of(store, AskRow)
        shown = node_view(node, [])
        offered = ask_view(store, ask, open_world.clock())
        rested = open_world.catalog.quotes.book(None).asks[0]
    for view in (shown, offered, rested):
        assert (view.to_json()["reliability"], view.verified) == ("0.95", False)


def test_lease_kept_raises_and_lease_lost_lowers(open_world: World) -> None:
    run(open_world)
    assert facts(open_world) == {952}
    lose(open_world)
    assert facts(open_world) == {909}


def test_jobs_that_ask_for_more_go_elsewhere(open_world: World) -> None:
    run(open_world, **PICKY)
    lose(open_world)
    refused = open_world.queue(**PICKY)
    job = open_world.job(refused)
    assert job.state == "no_match"
    assert job.explanation is not None
    assert {"reliability_too_low"} == {e["reason"] for e in job.explanation["eliminations"]}
    assert "/placement/min_reliability" in str(job.explanation["relaxations"])


def test_a_second_node_begins_where_its_provider_is(open_world: World) -> None:
    lose(open_world)
    open_world.node()
    with open_world.database.read() as store:
        assert [node.reliability_milli for node in rows_of(store, NodeRow)] == [904, 904]


def test_job_that_wants_verified_nodes_is_told_that_there_are_none(open_world: World) -> None:
    job_id = open_world.queue(placement={"verified_only": True})
    job = open_world.job(job_id)
    assert job.state == "no_match"
    assert job.detail is not None
    assert "No node is verified yet" in job.detail
    assert "/placement/verified_only" in str(job.explanation)


@pytest.mark.parametrize(
    ("stop", "outcome", "broken"),
    [
        (None, None, False),
        (StopReason.CANCELLED, {"outcome": "cancelled", "reason": "cancelled"}, False),
        (None, {"outcome": "failed", "reason": "exit_code"}, False),
        (None, {"outcome": "failed", "reason": "witness_silent"}, False),
        (StopReason.UNWITNESSED, {"outcome": "succeeded", "reason": "completed"}, False),
        (StopReason.LOST, None, True),
        (StopReason.START_LIMIT, None, True),
        *((None, {"outcome": "failed", "reason": reason}, True) for reason in BROKEN_REASONS),
    ],
)
def test_only_what_is_the_providers_fault_counts_against_it(
    open_world: World, stop: StopReason | None, outcome: dict[str, str] | None, broken: bool
) -> None:
    _, lease_id = open_world.open()
    lease = open_world.lease(lease_id)
    lease.stop_requested, lease.outcome = stop, outcome
    assert lease_life(lease).is_broken is broken
