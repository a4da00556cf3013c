"""Every other way a lease ends: stopped, lost, never witnessed, run out, moved to the next ask."""

from dataclasses import replace
from typing import Any

import pytest

from marketplace.db.tables import OrderEntryRow
from marketplace.errors import Conflict, InvalidInput, InvalidSignature
from marketplace.services.views import job_view, lease_view
from marketplace.wire.leases import SignedClose
from settlement.events import Stopped
from settlement.ports import BlockRef, LoggedEvent
from tests.market_world import TOKEN, World

RETRY = {"on_events": ["interruption"], "duration": "1h"}


@pytest.fixture
def lease_id(world: World) -> str:
    """The lease of a job that has been running for ten seconds, all of it countersigned."""
    _, made = world.start()
    ten_seconds(world, made)
    return made


@pytest.fixture
def job_id(world: World, lease_id: str) -> str:
    return world.lease(lease_id).job_id


def ten_seconds(world: World, lease_id: str) -> None:
    world.use(lease_id, 0, 0)
    world.use(lease_id, 1, 10_000, after=10)


def watch(world: World, after: float = 0) -> None:
    """What the market's loops see after so many seconds."""
    world.clock.advance(after)
    world.catalog.settling.failed_opens()
    world.catalog.watchdog.tick()
    world.catalog.watchdog.revive()


def settle(world: World, after: float = 0) -> None:
    if after:
        world.clock.advance(after)
        world.chain.mine()
    world.catalog.settling.settle()
    world.catalog.settling.refund()
    world.chain.mine()


def test_a_silent_provider_is_lost_and_the_witness_is_asked_to_stop(
    world: World, job_id: str, lease_id: str
) -> None:
    watch(world, 20)
    assert world.lease(lease_id).stop_requested is None
    watch(world, 1)
    assert world.lease(lease_id).stop_requested == "lost"
    assert world.job(job_id).state == "running"
    world.stop(lease_id)
    settle(world)
    job, lease = world.job(job_id), world.lease(lease_id)
    assert (job.state, job.reason, lease.state) == ("lost", "provider_lost", "stopped")
    ten = 10_000 * 2500 * TOKEN // 3_600_000_000
    assert world.chain.balances[world.provider.address] == ten
    settle(world, 200)
    assert world.lease(lease_id).state == "closed"
    assert world.chain.balances[world.buyer.address] == 100 * TOKEN - ten


def test_heartbeats_and_attestations_keep_a_provider_from_being_lost(
    world: World, lease_id: str
) -> None:
    for count in range(4):
        world.clock.advance(15)
        world.do(world.catalog.attestations.heartbeat, world.provider, lease_id, count)
        watch(world)
    assert world.lease(lease_id).stop_requested is None


def test_silence_is_measured_in_intervals_when_they_are_long(world: World) -> None:
    world.offer(world.node(interval_ms=60_000))
    _, lease_id = world.open()
    world.use(lease_id, 0, 0)
    watch(world, 170)
    assert world.lease(lease_id).stop_requested is None
    watch(world, 11)
    assert world.lease(lease_id).stop_requested == "lost"


def test_a_market_that_was_away_blames_no_provider_for_its_own_silence(
    world: World, lease_id: str
) -> None:
    world.clock.advance(60)
    back = replace(world.catalog.watchdog, since_ms=world.clock())
    assert back.tick() == 0
    world.clock.advance(20)
    assert back.tick() == 0
    world.clock.advance(1)
    assert back.tick() == 1
    assert world.lease(lease_id).stop_requested == "lost"


def test_a_market_that_was_away_waits_for_ready_readings_on_their_way(world: World) -> None:
    _, lease_id = world.start()
    world.clock.advance(3_600)
    back = replace(world.catalog.watchdog, since_ms=world.clock())
    assert back.tick() == 0
    world.clock.advance(21)
    assert back.tick() == 1
    assert world.lease(lease_id).stop_requested == "start_limit"


def test_a_late_starter_is_stopped_and_pays_nothing(world: World) -> None:
    node = world.node()
    world.offer(node)
    job_id, lease_id = world.open()
    for _ in range(7):
        world.clock.advance(9)
        world.do(world.catalog.nodes.heartbeat, world.provider, node)
        watch(world)
    assert world.lease(lease_id).stop_requested == "start_limit"
    world.halt(lease_id)
    assert (world.job(job_id).state, world.job(job_id).reason) == ("lost", "start_limit_passed")
    assert world.lease(lease_id).released == 0


def test_a_lost_job_moves_to_the_next_ask_with_what_is_left(world: World) -> None:
    first = world.ask(price="2.00")
    second = world.offer(price="2.50")
    job_id, lease_id = world.open(retry=RETRY)
    ten_seconds(world, lease_id)
    watch(world, 25)
    world.stop(lease_id)
    settle(world)
    job, old = world.job(job_id), world.lease(lease_id)
    assert (job.state, job.excluded, job.spent) == ("queued", [first], old.lock)
    world.match()
    world.chain.mine()
    job = world.job(job_id)
    lease = world.lease(job.lease_id or "")
    assert (job.state, lease.ask_id) == ("starting", second)
    assert lease.previous is not None
    assert lease.previous["provider"] == world.provider.address
    entry = world.rows(OrderEntryRow, kind="bid")[-1]
    assert int(entry.payload["budget_left"]) == 5 * TOKEN - old.lock
    ten_seconds(world, lease.id)
    world.end(lease.id, 2, 10_000)
    assert world.job(job_id).state == "succeeded"


def test_a_lost_job_without_another_ask_fails_at_the_end_of_its_retry(world: World) -> None:
    job_id, lease_id = world.start(retry={"on_events": ["interruption"], "duration": "60s"})
    ten_seconds(world, lease_id)
    watch(world, 25)
    world.halt(lease_id)
    world.match()
    assert world.job(job_id).state == "queued"
    world.clock.advance(62)
    world.match()
    job = world.job(job_id)
    assert (job.state, job.reason, job.reserve) == ("failed", "start_deadline_passed", 0)


def test_a_lost_lease_that_nobody_stops_frees_the_job_when_it_runs_out(world: World) -> None:
    world.ask(price="2.00")
    world.offer(price="2.50")
    job_id, lease_id = world.open(retry=RETRY, max_duration="2m")
    ten_seconds(world, lease_id)
    watch(world, 25)
    watch(world, 25)
    assert (world.job(job_id).state, world.job(job_id).requeue_after) == ("queued", lease_id)
    world.match()
    assert world.job(job_id).state == "queued"
    world.clock.advance(200)
    world.chain.mine()
    watch(world)
    world.match()
    assert world.job(job_id).state == "matched"


def test_a_lost_job_that_does_not_retry_ends_even_if_no_witness_answers(
    world: World, job_id: str, lease_id: str
) -> None:
    watch(world, 25)
    watch(world, 25)
    assert world.job(job_id).state == "lost"
    assert world.lease(lease_id).state == "active"


def test_without_a_witness_for_the_close_the_meter_is_asked_to_stop(
    world: World, job_id: str, lease_id: str
) -> None:
    world.finish(lease_id, 2, 10_000)
    watch(world, 21)
    assert world.lease(lease_id).stop_requested == "unwitnessed"
    lease = world.lease(lease_id)
    world.stop(lease_id, world.meter)
    settle(world)
    assert (world.job(job_id).state, world.lease(lease_id).state) == ("succeeded", "stopped")
    settle(world, 200)
    assert world.lease(lease_id).state == "closed"
    assert world.lease(lease_id).released == 10_000 * 2500 * TOKEN // 3_600_000_000
    assert lease.outcome["outcome"] == "succeeded"


def test_once_it_has_ended_a_lease_costs_what_was_countersigned_and_not_what_was_attested(
    world: World, job_id: str, lease_id: str
) -> None:
    world.attest(lease_id, 2, 15_000, after=5)

    def shown() -> tuple[int, int, int]:
        market = world.catalog.market
        with world.database.read() as store:
            job = job_view(store, market, store.jobs.get(job_id))
            lease = lease_view(store, market, store.leases.get(lease_id))
        assert job.cost is not None
        return job.cost.accrued.atoms, lease.cost.atoms, job.cost.ms

    attested, countersigned = (ms * 2500 * TOKEN // 3_600_000_000 for ms in (15_000, 10_000))
    assert shown() == (attested, attested, 15_000)
    world.stop(lease_id, world.meter)
    settle(world)
    assert shown() == (countersigned, countersigned, 10_000)
    settle(world, 200)
    assert world.lease(lease_id).state == "closed"
    assert shown() == (countersigned, countersigned, 10_000)


def test_a_stop_by_anyone_but_witness_and_meter_is_refused(world: World, lease_id: str) -> None:
    for signer in (world.buyer, world.provider, world.stranger):
        with pytest.raises(InvalidSignature):
            world.stop(lease_id, signer)
    world.stop(lease_id)
    world.halt(lease_id)
    assert world.lease(lease_id).state == "stopped"


def test_a_report_is_taken_once_and_again_only_the_same(world: World, lease_id: str) -> None:
    world.clock.advance(1)
    report = world.report(lease_id, 2, 11_000)
    for _ in range(2):
        _, _, refusal = world.do(world.catalog.ends.finish, world.provider, lease_id, report)
        assert refusal is None
    other = world.report(lease_id, 3, 11_500)
    with pytest.raises(Conflict):
        world.do(world.catalog.ends.finish, world.provider, lease_id, other)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"outcome": "lost"}, InvalidInput),
        ({"outcome": "over_budget"}, InvalidInput),
        ({"outputs": "ab" * 32}, InvalidInput),
    ],
)
def test_a_report_that_cannot_be_true_is_refused(
    world: World, lease_id: str, changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        world.finish(lease_id, 2, 10_000, **changes)
    assert world.lease(lease_id).outcome is None


def test_a_close_at_other_usage_than_the_last_attestation_is_refused(
    world: World, lease_id: str
) -> None:
    report = world.report(lease_id, 2, 10_000)
    close = replace(report.close.message, ms=9_000)
    for message, signer, error in (
        (close, world.meter, InvalidInput),
        (report.close.message, world.stranger, InvalidSignature),
    ):
        half = world.signed(SignedClose, signer, message=message)
        bad = report.model_copy(update={"close": half})
        with pytest.raises(error):
            world.do(world.catalog.ends.finish, world.provider, lease_id, bad)


def test_a_job_that_outruns_its_budget_ends_over_budget(world: World) -> None:
    world.offer(start_limit="10s")
    job_id, lease_id = world.open(budget={"max_total": "0.05"}, max_duration="10m")
    assert world.lease(lease_id).budget_limited
    assert world.lease(lease_id).funded_seconds == 72
    world.use(lease_id, 0, 0)
    world.end(lease_id, 1, 72_000, outcome="over_budget", exit_code=None, after=72)
    assert world.job(job_id).state == "over_budget"
    assert world.chain.balances[world.provider.address] == TOKEN // 20


def test_a_lease_stopped_past_the_server_ends_its_job(
    world: World, job_id: str, lease_id: str
) -> None:
    lease = world.lease(lease_id)
    number = bytes.fromhex(lease.lease_no[2:])
    stopped = Stopped(number, lease.buyer, lease.provider, world.clock() // 1000, 0)
    height = world.chain.height + 1
    ref = BlockRef(height, f"0x{height:064x}", f"0x{height - 1:064x}", world.clock() // 1000)
    world.chain.events.append(ref, [LoggedEvent(height, ref.hash, "0x01", 0, stopped)])
    assert (world.job(job_id).state, world.job(job_id).reason) == ("cancelled", "lease_stopped")


def test_a_reorg_takes_the_opening_back_and_the_job_waits(world: World) -> None:
    job_id, lease_id = world.start()
    world.chain.events.rollback(0)
    lease = world.lease(lease_id)
    assert (lease.state, lease.start_s, world.job(job_id).state) == ("opening", None, "matched")
    assert world.job(job_id).reserve == lease.lock


def test_the_failed_close_of_a_witness_counts_as_none(world: World, lease_id: str) -> None:
    world.finish(lease_id, 2, 10_000)
    world.chain.refusals[f"close:{lease_id}"] = "InvalidSignature()"
    world.close(lease_id)
    settle(world)
    assert world.lease(lease_id).settled["ms"] == 0
    settle(world)
    assert world.lease(lease_id).settled["ms"] == 10_000
    watch(world, 21)
    assert world.lease(lease_id).stop_requested == "unwitnessed"


def test_over_budget_is_judged_by_the_clock_not_by_the_usage(world: World) -> None:
    world.offer(start_limit="10s")
    _, lease_id = world.open(budget={"max_total": "0.05"}, max_duration="10m")
    world.use(lease_id, 0, 0, after=9)
    world.clock.advance(30)
    with pytest.raises(InvalidInput):
        world.finish(lease_id, 1, 30_000, outcome="over_budget", exit_code=None)
    world.finish(lease_id, 1, 63_000, outcome="over_budget", exit_code=None, after=33)
    outcome = world.lease(lease_id).outcome
    assert outcome is not None
    assert outcome["outcome"] == "over_budget"
