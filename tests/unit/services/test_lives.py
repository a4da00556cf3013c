"""What the services make of the rules in `domain.advance`: cancels, late openings, key charges."""

import pytest

from marketplace.db.tables import ApiKeyRow
from marketplace.domain.life import JobState, LeaseState, Outcome, StopReason
from marketplace.errors import Conflict
from tests.market_world import TOKEN, World

RETRY = {"on_events": ["interruption", "error"], "duration": "1h"}
LOST_S = 25  # more than a provider may be silent


def running(world: World, **changes: object) -> tuple[str, str]:
    """A job that has been running for ten seconds and is retried on everything."""
    world.ask(price="2.00")
    world.offer(price="2.50")
    job_id, lease_id = world.open(**{"retry": RETRY, **changes})
    world.use(lease_id, 0, 0)
    world.use(lease_id, 1, 10_000, after=10)
    return job_id, lease_id


def cancel(world: World, job_id: str) -> None:
    world.do(world.catalog.jobs.cancel, world.buyer, job_id)


def fall_silent(world: World) -> None:
    world.clock.advance(LOST_S)
    world.catalog.watchdog.tick()


def late_opening(world: World) -> tuple[str, str]:
    """A job that failed because its buyer spoilt the opening, and the lease that opened anyway."""
    world.offer()
    job_id = world.queue()
    lease_id = world.refuse_opening(job_id, "InsufficientBalance(5, 4)")
    assert world.job(job_id).state is JobState.FAILED
    world.open_late(lease_id)
    return job_id, lease_id


def test_rows_hold_members_of_the_enums(world: World) -> None:
    job_id, lease_id = running(world)
    fall_silent(world)
    job, lease = world.job(job_id), world.lease(lease_id)
    assert job.state is JobState.RUNNING
    assert job.ending is Outcome.LOST
    assert lease.state is LeaseState.ACTIVE
    assert lease.stop_requested is StopReason.LOST


def test_cancelling_a_job_that_is_being_lost_ends_it_instead_of_looking_for_another_ask(
    world: World,
) -> None:
    job_id, lease_id = running(world)
    fall_silent(world)
    cancel(world, job_id)
    assert world.job(job_id).ending is Outcome.CANCELLED
    world.halt(lease_id)
    job = world.job(job_id)
    assert (job.state, job.reason, job.requeue_after) == ("cancelled", "provider_lost", None)


def test_cancelling_a_job_whose_agent_reported_a_failure_keeps_it_from_the_next_ask(
    world: World,
) -> None:
    job_id, lease_id = running(world)
    world.finish(lease_id, 2, 10_000, outcome="failed", exit_code=1, reason="exit_code")
    cancel(world, job_id)
    world.close(lease_id)
    world.chain.mine()
    assert (world.job(job_id).state, world.job(job_id).exit_code) == ("failed", 1)
    world.match()
    assert world.job(job_id).lease_id == lease_id


def test_a_cancelled_job_that_fails_is_not_retried(world: World) -> None:
    job_id, lease_id = running(world)
    cancel(world, job_id)
    world.finish(lease_id, 2, 10_000, outcome="failed", exit_code=1, reason="exit_code")
    assert world.job(job_id).ending is Outcome.CANCELLED
    world.close(lease_id)
    world.chain.mine()
    assert (world.job(job_id).state, world.job(job_id).reason) == ("failed", "exit_code")


def test_a_lease_that_opens_after_its_job_has_failed_is_to_stop(world: World) -> None:
    job_id, lease_id = late_opening(world)
    lease = world.lease(lease_id)
    assert (lease.state, lease.stop_requested) == (LeaseState.ACTIVE, StopReason.CANCELLED)
    assert world.job(job_id).state is JobState.FAILED


def test_silence_after_a_job_has_ended_changes_its_lease_only(world: World) -> None:
    job_id, lease_id = late_opening(world)
    fall_silent(world)
    job = world.job(job_id)
    assert world.lease(lease_id).stop_requested is StopReason.LOST
    assert (job.state, job.ending, job.reason) == ("failed", None, "open_failed")
    world.clock.advance(LOST_S)
    assert world.catalog.watchdog.tick() == 0


def test_a_job_that_moves_on_stays_charged_to_its_key_until_it_ends(world: World) -> None:
    job_id, lease_id = running(world)
    charge = 5 * TOKEN
    with world.database.write() as store:
        row = ApiKeyRow(
            id="key_1", account=world.buyer.address, name="", secret_hash="", hint="",
            scopes="buyer", nonce="", created_ms=0, spent=charge,
        )  # fmt: skip
        store.keys.add(row)
        job = store.jobs.need(job_id)
        job.key_id, job.key_charge = row.id, charge

    def charged() -> tuple[int, int]:
        with world.database.read() as store:
            return store.keys.need("key_1").spent, store.jobs.need(job_id).key_charge

    fall_silent(world)
    world.halt(lease_id, again=True)
    assert world.job(job_id).state is JobState.QUEUED
    assert charged() == (charge, charge)
    world.match()
    world.chain.mine()
    second = world.job(job_id).lease_id or ""
    assert second != lease_id
    world.use(second, 0, 0)
    world.end(second, 1, 10_000, after=10)
    actual = world.lease(lease_id).lock + world.lease(second).released
    assert world.job(job_id).state is JobState.SUCCEEDED
    assert charged() == (actual, actual)


@pytest.mark.parametrize("act", ["report", "close", "stop", "cancel"])
def test_what_comes_too_late_is_refused_as_a_conflict(world: World, act: str) -> None:
    job_id, lease_id = running(world)
    world.end(lease_id, 2, 10_000)
    late = {
        "report": lambda: world.finish(lease_id, 2, 10_000),
        "close": lambda: world.close(lease_id),
        "stop": lambda: world.stop(lease_id),
        "cancel": lambda: cancel(world, job_id),
    }
    with pytest.raises(Conflict) as refusal:
        late[act]()
    assert refusal.value.code == "conflict"
    assert "closed" in str(refusal.value) or "ended" in str(refusal.value)
