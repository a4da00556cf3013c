"""Every other way a lease ends: stopped, lost, never witnessed, past its end, past the server."""

from dataclasses import replace
from typing import Any

import pytest

from marketplace.errors import Conflict, InvalidInput, InvalidSignature
from marketplace.limits import STOP_SECONDS_MAX
from marketplace.services.views import job_view, lease_view
from marketplace.wire.leases import SignedClose, SignedStop
from settlement.attestation import Stop
from settlement.events import Stopped
from settlement.ports import BlockRef, LoggedEvent
from settlement.signing import LocalSigner
from tests.market_world import TOKEN, World
from tests.unit.services.conftest import settle, watch


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


@pytest.mark.parametrize("ahead_s", [-1, 0, STOP_SECONDS_MAX + 1])
def test_a_stop_whose_deadline_has_passed_or_is_far_off_is_refused(
    world: World, lease_id: str, ahead_s: int
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        send_stop(world, lease_id, world.witness, ahead_s=ahead_s)
    assert [problem.pointer for problem in refusal.value.problems] == ["/stop/deadline"]
    assert world.lease(lease_id).stop_signature is None


@pytest.mark.parametrize("ahead_s", [1, STOP_SECONDS_MAX])
def test_a_stop_whose_deadline_lies_a_little_ahead_is_taken(
    world: World, lease_id: str, ahead_s: int
) -> None:
    send_stop(world, lease_id, world.witness, ahead_s=ahead_s)
    world.chain.mine()
    assert world.lease(lease_id).state == "stopped"


def test_a_stop_of_another_lease_is_refused(world: World, lease_id: str) -> None:
    for changes in ({"lease_no": bytes(16)}, {"buyer": world.stranger.address},
                    {"provider": world.stranger.address}):  # fmt: skip
        with pytest.raises(InvalidInput, match="another lease"):
            send_stop(world, lease_id, world.witness, **changes)


def send_stop(
    world: World, lease_id: str, signer: LocalSigner, ahead_s: int = 1, **changes: Any
) -> None:
    lease = world.lease(lease_id)
    deadline = world.clock() // 1000 + ahead_s
    stop = Stop(lease.buyer, lease.provider, lease.lease_bytes, again=False, deadline=deadline)
    signed = world.signed(SignedStop, signer, stop=replace(stop, **changes))
    world.do(world.catalog.ends.stop, world.buyer, lease_id, signed)


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
    assert world.lease(lease_id).paid_seconds == 72
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


def test_over_budget_is_judged_by_the_usage_not_by_the_clock(world: World) -> None:
    world.offer(start_limit="10s")
    _, lease_id = world.open(budget={"max_total": "0.05"}, max_duration="10m")
    world.use(lease_id, 0, 0, after=9)
    world.clock.advance(72)
    with pytest.raises(InvalidInput):
        world.finish(lease_id, 1, 69_999, outcome="over_budget", exit_code=None)
    world.finish(lease_id, 1, 70_000, outcome="over_budget", exit_code=None)
    outcome = world.lease(lease_id).outcome
    assert outcome is not None
    assert outcome["outcome"] == "over_budget"
