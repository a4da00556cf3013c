"""A node that is taken back: notice for its interruptible leases, and its reliability."""

from typing import Any

import pytest

from marketplace.db.tables import NodeRow, ReceiptRow
from marketplace.domain.reliability import reliability_milli
from marketplace.errors import InvalidInput, NotFound
from marketplace.services.views import lease_view
from settlement.events import Stopped
from settlement.leases import Side
from tests.databases import rows_of
from tests.market_world import World

NOTICE = {"interruptible": True, "notice": "60s"}
ACCEPTED: dict[str, Any] = {"placement": {"interruptible": True}}
RETRY: dict[str, Any] = {**ACCEPTED, "retry": {"on_events": ["interruption"], "duration": "1h"}}
TAKEN_BACK = {"outcome": "lost", "reason": "taken_back", "exit_code": 143}
KEPT, BROKEN = reliability_milli(1, 0), reliability_milli(1, 1)


def take_back(world: World, node_id: str) -> None:
    with world.database.write() as store:
        node = world.catalog.nodes.drain(store, world.caller(world.provider), node_id)
        world.catalog.ends.give_notice(store, node)


def started(world: World, **changes: Any) -> tuple[str, str, str]:
    """A job that runs on an interruptible node: its id, its lease's, its node's."""
    node_id = world.node()
    world.offer(node_id, **NOTICE)
    job_id, lease_id = world.open(**{**ACCEPTED, **changes})
    world.use(lease_id, 0, 0)
    return job_id, lease_id, node_id


def reliability(world: World) -> int:
    with world.database.read() as store:
        (milli,) = {node.reliability_milli for node in rows_of(store, NodeRow)}
    return milli


def test_notice_that_was_kept_ends_the_lease_costs_nothing_and_the_job_goes_on(
    world: World,
) -> None:
    job_id, lease_id, node_id = started(world, **RETRY)
    second = world.ask(price="2.75")
    take_back(world, node_id)
    lease = world.lease(lease_id)
    assert (lease.notice_seconds, lease.notice_ms) == (60, world.clock())
    assert world.job(job_id).detail == "the provider takes the node back in 1m"
    world.end(lease_id, 1, 60_000, after=60, **TAKEN_BACK)
    job, lease = world.job(job_id), world.lease(lease_id)
    assert (lease.state, lease.again, job.state) == ("closed", True, "queued")
    assert reliability(world) == KEPT
    world.match()
    world.chain.mine()
    job = world.job(job_id)
    assert (job.state, world.lease(job.lease_id or "").ask_id) == ("starting", second)


def test_receipts_of_a_job_are_in_the_order_of_its_leases(world: World) -> None:
    """A lease that was lost may close after the one that followed it."""
    job_id, first, node_id = started(world, **RETRY)
    world.ask(price="2.75")
    take_back(world, node_id)
    world.end(first, 1, 60_000, after=60, **TAKEN_BACK)
    world.match()
    world.chain.mine()
    second = world.job(job_id).lease_id or ""
    world.use(second, 0, 0)
    world.end(second, 1, 10_000, after=10)
    with world.database.write() as store:
        rows = {row.lease_id: row for row in rows_of(store, ReceiptRow)}
        rows[first].id = rows[second].id + "0"  # as if it had been written later
    with world.database.read() as store:
        receipts = world.catalog.receipts.of_job(store, world.caller(world.buyer), job_id)
        assert [receipt.lease_id for receipt in receipts] == [first, second]


def test_a_lease_shows_its_notice_and_when_it_was_given(world: World) -> None:
    _, lease_id, node_id = started(world)

    def shown() -> Any:
        with world.database.read() as store:
            return lease_view(store, world.catalog.market, store.leases.need(lease_id))

    assert (shown().notice_seconds, shown().notice_at) == (60, None)
    take_back(world, node_id)
    given = shown().notice_at
    world.clock.advance(30)
    take_back(world, node_id)  # the first notice counts
    assert shown().notice_at == given


def test_a_job_that_is_not_retried_is_lost_and_pays_for_what_it_used(world: World) -> None:
    job_id, lease_id, node_id = started(world)
    take_back(world, node_id)
    world.use(lease_id, 1, 60_000, after=60)
    world.end(lease_id, 2, 60_000, **TAKEN_BACK)
    job, lease = world.job(job_id), world.lease(lease_id)
    assert (job.state, job.reason, lease.again) == ("lost", "taken_back", False)
    assert lease.released > 0
    assert lease.refunded > 0
    assert reliability(world) == KEPT


def test_a_node_taken_back_before_its_notice_is_over_lowers_reliability(world: World) -> None:
    _, lease_id, node_id = started(world)
    take_back(world, node_id)
    world.clock.advance(59)
    report = world.report(lease_id, 1, 59_000, **TAKEN_BACK)
    world.do(world.catalog.ends.finish, world.provider, lease_id, report)
    world.clock.advance(10)
    world.do(world.catalog.ends.finish, world.provider, lease_id, report)  # that is no later
    world.close(lease_id)
    world.chain.mine()
    assert reliability(world) == BROKEN


@pytest.mark.parametrize(("after", "expected"), [(3_660, KEPT), (3_661, BROKEN)])
def test_a_notice_of_long_ago_is_no_leave_to_drop_the_job(
    world: World, after: int, expected: int
) -> None:
    _, lease_id, node_id = started(world, max_duration="3h")
    take_back(world, node_id)
    world.end(lease_id, 1, after * 1000, after=after, **TAKEN_BACK)
    assert reliability(world) == expected


def test_a_job_that_leaves_after_notice_by_itself_costs_its_provider_nothing(world: World) -> None:
    job_id, lease_id, node_id = started(world, **RETRY)
    take_back(world, node_id)
    world.end(lease_id, 1, 5_000, after=5, outcome="lost", reason="exit_code", exit_code=75)
    assert world.job(job_id).state == "queued"
    assert reliability(world) == KEPT


def test_an_agent_that_stops_within_the_notice_breaks_its_word(world: World) -> None:
    _, lease_id, node_id = started(world)
    take_back(world, node_id)
    world.end(lease_id, 1, 5_000, after=5, outcome="failed", reason="agent_stopped", exit_code=143)
    assert reliability(world) == BROKEN


def test_no_run_is_lost_by_its_agents_word_without_notice(world: World) -> None:
    job_id, lease_id, _ = started(world)
    with pytest.raises(InvalidInput, match="no notice was given"):
        world.finish(lease_id, 1, 1_000, after=1, **TAKEN_BACK)
    assert world.job(job_id).state == "running"


def test_leases_that_are_not_interruptible_get_no_notice(world: World) -> None:
    node_id = world.node(gpus=2)
    world.offer(node_id)
    _, firm = world.open()
    world.use(firm, 0, 0)
    take_back(world, node_id)
    assert (world.lease(firm).notice_seconds, world.lease(firm).notice_ms) == (None, None)
    assert world.lease(firm).state == "active"


def test_a_lease_that_is_still_being_opened_gets_the_notice_too(world: World) -> None:
    node_id = world.node()
    world.offer(node_id, **NOTICE)
    job_id = world.queue(**RETRY)
    take_back(world, node_id)
    world.chain.mine()
    lease_id = world.job(job_id).lease_id or ""
    assert world.lease(lease_id).notice_ms is not None
    world.end(lease_id, 0, 0, after=60, **TAKEN_BACK)
    assert world.job(job_id).state == "queued"
    assert reliability(world) == KEPT


def test_only_its_provider_takes_a_node_back(world: World) -> None:
    _, lease_id, node_id = started(world)
    with world.database.write() as store, pytest.raises(NotFound):
        world.catalog.nodes.drain(store, world.caller(world.stranger), node_id)
    assert world.lease(lease_id).notice_ms is None


def test_a_meter_that_stops_a_lease_unasked_breaks_it_and_the_job_is_lost(world: World) -> None:
    job_id, lease_id, _ = started(world, **RETRY)
    world.stop(lease_id, world.meter)
    world.chain.mine()
    job, lease = world.job(job_id), world.lease(lease_id)
    assert (lease.state, lease.reason) == ("stopped", "provider_stopped")
    assert (job.state, lease.stop_requested) == ("queued", "retry")  # it waits for the mark
    assert reliability(world) == BROKEN


@pytest.mark.parametrize(
    ("side", "milli"), [(Side.PROVIDER, BROKEN), (Side.BUYER, KEPT), (Side.NOBODY, KEPT)]
)
@pytest.mark.parametrize("terms", [{}, NOTICE], ids=["firm", "interruptible"])
def test_a_lease_that_its_provider_stops_by_its_own_transaction_lowers_reliability(
    world: World, terms: dict[str, Any], side: Side, milli: int
) -> None:
    world.offer(**terms)
    _, lease_id = world.open(**ACCEPTED)
    world.use(lease_id, 0, 0)
    lease = world.lease(lease_id)
    names = (lease.lease_bytes, lease.buyer, lease.provider)
    world.chain.direct.append(Stopped(*names, world.clock() // 1000, 0))
    world.chain.stoppers[lease.lease_bytes] = side
    world.chain.mine()
    world.finish(lease_id, 1, 0, outcome="failed", reason="lease_stopped", exit_code=143)
    assert reliability(world) == KEPT  # nobody knows yet
    assert world.catalog.stops.judge() == 1
    assert reliability(world) == milli
    assert world.catalog.stops.judge() == 0


def test_a_stop_after_the_agent_has_reported_is_no_breach(world: World) -> None:
    _, lease_id, _ = started(world)
    world.use(lease_id, 1, 5_000, after=5)
    world.finish(lease_id, 2, 5_000, outcome="failed", reason="witness_silent", exit_code=143)
    world.chain.stoppers[world.lease(lease_id).lease_bytes] = Side.PROVIDER
    world.halt(lease_id, world.meter)
    world.catalog.stops.judge()
    assert reliability(world) == KEPT


def test_a_meter_that_was_asked_for_a_stop_is_not_to_blame(world: World) -> None:
    job_id, lease_id, _ = started(world)
    world.do(world.catalog.jobs.cancel, world.buyer, job_id)
    world.halt(lease_id, world.meter)
    assert world.job(job_id).state == "cancelled"
    assert reliability(world) == KEPT
