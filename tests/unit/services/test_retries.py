"""A job that goes on elsewhere: its lease over, its seat marked, its node free."""

from dataclasses import replace
from typing import Any

import pytest

from marketplace.db.tables import IntentRow, NodeRow, OrderEntryRow
from marketplace.domain.reliability import reliability_milli
from marketplace.errors import InvalidInput, InvalidSignature
from marketplace.services.settling import FREE_AFTER_S
from marketplace.wire.leases import SignedClose
from settlement.events import MarkedAgain
from settlement.ports import IntentKind
from tests.market_world import TOKEN, World
from tests.unit.services.conftest import settle, ten_seconds, watch

RETRY = {"on_events": ["interruption"], "duration": "1h"}


def test_a_lost_job_moves_to_the_next_ask_with_what_is_left(world: World) -> None:
    first = world.ask(price="2.00")
    second = world.offer(price="2.50")
    job_id, lease_id = world.open(retry=RETRY)
    ten_seconds(world, lease_id)
    watch(world, 25)
    world.stop(lease_id, again=True)
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
    world.halt(lease_id, again=True)
    world.match()
    assert world.job(job_id).state == "queued"
    world.clock.advance(62)
    world.match()
    job = world.job(job_id)
    assert (job.state, job.reason, job.reserve) == ("failed", "start_deadline_passed", 0)


def waiting_for_mark(world: World, **changes: Any) -> tuple[str, str]:
    """A lost job whose lease nobody stopped: it ran out, the chain freed it, and has no mark."""
    world.ask(price="2.00")
    world.offer(price="2.50")
    job_id, lease_id = world.open(**{"retry": RETRY, "max_duration": "2m", **changes})
    ten_seconds(world, lease_id)
    watch(world, 25)
    watch(world, 25)
    assert (world.job(job_id).state, world.job(job_id).requeue_after) == ("queued", lease_id)
    world.match()
    assert world.job(job_id).state == "queued"
    settle(world, 200)
    return job_id, lease_id


def pending(world: World) -> list[tuple[str, str | None]]:
    """The leases that the witness is told of, and why it is to stop each."""
    with world.database.read() as store:
        told = world.catalog.leases.pending(store, world.caller(world.witness))
    return [(entry.lease.id, entry.lease.stop_requested) for entry in told.data]


def test_a_lost_lease_that_nobody_stops_frees_the_job_once_it_is_over_and_marked(
    world: World,
) -> None:
    job_id, lease_id = waiting_for_mark(world)
    watch(world)
    world.match()
    lease = world.lease(lease_id)
    assert (lease.state, lease.stop_requested, lease.again) == ("stopped", "retry", False)
    assert (world.job(job_id).state, world.job(job_id).requeue_after) == ("queued", lease_id)
    world.halt(lease_id, again=True)
    lease = world.lease(lease_id)
    assert (lease.state, lease.stop_requested, lease.again) == ("stopped", "lost", True)
    world.match()
    assert world.job(job_id).state == "matched"


def test_a_witness_is_told_of_a_closed_lease_until_it_has_marked_it(world: World) -> None:
    job_id, lease_id = waiting_for_mark(world)
    assert pending(world) == [(lease_id, "retry")]
    settle(world, 200)
    assert world.lease(lease_id).state == "closed"
    assert pending(world) == [(lease_id, "retry")]
    world.halt(lease_id, again=True)
    assert pending(world) == []
    world.match()
    assert world.job(job_id).state == "matched"


def test_a_witness_that_comes_after_the_refund_is_asked_for_the_mark_and_for_no_close(
    world: World,
) -> None:
    world.ask(price="2.00")
    world.offer(price="2.50")
    job_id, lease_id = world.open(retry={"on_events": ["error"], "duration": "1h"})
    ten_seconds(world, lease_id)
    world.finish(lease_id, 2, 10_000, outcome="failed", exit_code=1)
    watch(world, 21)
    world.halt(lease_id, world.meter)

    def asked() -> tuple[bool, str | None]:
        with world.database.read() as store:
            told = world.catalog.leases.pending(store, world.caller(world.witness))
        [entry] = told.data
        return entry.close is not None, entry.lease.stop_requested

    assert (world.lease(lease_id).state, asked()) == ("stopped", (True, "retry"))
    settle(world, 200)
    assert (world.lease(lease_id).state, asked()) == ("closed", (False, "retry"))
    world.halt(lease_id, again=True)
    world.match()
    assert world.job(job_id).state == "matched"


def again_intents(world: World, lease_id: str) -> list[str]:
    return [row.key for row in world.rows(IntentRow) if row.key.startswith(f"again:{lease_id}")]


@pytest.mark.parametrize("state", ["stopped", "closed"])
def test_a_mark_of_a_lease_that_is_over_reaches_the_chain_once(world: World, state: str) -> None:
    _, lease_id = waiting_for_mark(world)
    if state == "closed":
        settle(world, 200)
    assert world.lease(lease_id).state == state
    for _ in range(2):
        world.stop(lease_id, again=True)
    world.chain.mine()
    world.stop(lease_id, again=True)
    world.chain.mine()
    assert len(again_intents(world, lease_id)) == 1
    number = world.lease(lease_id).lease_bytes
    marks = [x for x in world.chain.events.events(number) if isinstance(x.event, MarkedAgain)]
    assert len(marks) == 1
    assert (world.lease(lease_id).state, world.lease(lease_id).again) == (state, True)


def test_a_mark_that_the_chain_refused_is_sent_again(world: World) -> None:
    job_id, lease_id = waiting_for_mark(world)
    world.chain.refusals[f"again:{lease_id}"] = "OrderExpired(1, 2)"
    world.halt(lease_id, again=True)
    assert (world.lease(lease_id).again, pending(world)) == (False, [(lease_id, "retry")])
    world.halt(lease_id, again=True)
    assert world.lease(lease_id).again
    assert len(again_intents(world, lease_id)) == 2
    world.match()
    assert world.job(job_id).state == "matched"


def test_a_retry_that_is_never_marked_ends_with_its_time_and_asks_the_witness_no_more(
    world: World,
) -> None:
    retry = {**RETRY, "duration": "10m"}
    job_id, lease_id = waiting_for_mark(world, retry=retry)
    watch(world, 400)
    assert world.job(job_id).state == "queued"
    watch(world, 1)
    job, lease = world.job(job_id), world.lease(lease_id)
    assert (job.state, job.reason, job.requeue_after) == ("failed", "retry_passed", None)
    assert (lease.stop_requested, pending(world)) == ("lost", [(lease_id, "lost")])
    world.halt(lease_id, again=True)
    world.match()
    assert world.job(job_id).state == "failed"


def test_a_job_cancelled_while_it_waits_for_the_mark_ends_and_asks_the_witness_no_more(
    world: World,
) -> None:
    job_id, lease_id = waiting_for_mark(world)
    world.do(world.catalog.jobs.cancel, world.buyer, job_id)
    assert (world.job(job_id).state, world.lease(lease_id).stop_requested) == ("cancelled", "lost")
    world.halt(lease_id, again=True)
    world.match()
    assert (world.job(job_id).state, world.job(job_id).lease_id) == ("cancelled", lease_id)


def test_a_reorg_takes_a_mark_back_and_the_job_stays_on_the_book(world: World) -> None:
    job_id, lease_id = waiting_for_mark(world)
    before = world.chain.height
    world.halt(lease_id, again=True)
    assert world.lease(lease_id).again
    world.chain.events.rollback(before)
    lease, job = world.lease(lease_id), world.job(job_id)
    assert (lease.state, lease.again, lease.stop_requested) == ("stopped", False, "lost")
    assert (job.state, job.requeue_after) == ("queued", None)


def test_a_provider_is_judged_for_a_lost_job_that_goes_on_elsewhere(world: World) -> None:
    _, lease_id = waiting_for_mark(world)
    world.halt(lease_id, again=True)
    assert world.lease(lease_id).reason == "lost"
    assert {node.reliability_milli for node in world.rows(NodeRow)} == {reliability_milli(1, 1)}


def test_a_stopped_lease_gives_its_node_back_at_once(world: World) -> None:
    ask = world.offer()
    _, lease_id = world.open()
    ten_seconds(world, lease_id)

    def frees() -> int:
        return len(world.rows(OrderEntryRow, kind="free"))

    world.halt(lease_id)
    assert (world.lease(lease_id).state, frees()) == ("stopped", 1)
    following = world.queue()
    lease = world.lease(world.job(following).lease_id or "")
    assert (lease.ask_id, lease.state) == (ask, "opening")
    settle(world, 200)
    assert (world.lease(lease_id).state, frees()) == ("closed", 1)


def test_a_lease_that_ran_out_is_freed_once_and_after_a_while(world: World, lease_id: str) -> None:
    def asked() -> list[str]:
        return [row.key for row in world.rows(IntentRow) if row.kind is IntentKind.FREE]

    end_s = world.lease(lease_id).end_s
    assert end_s is not None
    free = world.catalog.settling.free_ended
    world.clock.ms = (end_s + FREE_AFTER_S) * 1000
    world.chain.mine()
    assert (free(), asked()) == (0, [])
    world.clock.advance(1)
    world.chain.mine()
    assert (free(), asked()) == (1, [f"free:{lease_id}"])
    assert free() == 0
    world.chain.mine()
    lease = world.lease(lease_id)
    assert (lease.state, lease.end_s) == ("stopped", end_s)
    world.clock.advance(600)
    world.chain.mine()
    assert (free(), asked()) == (0, [f"free:{lease_id}"])


def test_a_free_that_the_chain_refused_is_not_sent_again(world: World, lease_id: str) -> None:
    world.chain.refusals[f"free:{lease_id}"] = "LeaseNotActive()"
    world.clock.advance(800)
    world.chain.mine()
    assert world.catalog.settling.free_ended() == 1
    for _ in range(2):
        world.chain.mine()
        assert world.catalog.settling.free_ended() == 0


def test_leases_that_are_over_or_run_on_are_not_freed(world: World, lease_id: str) -> None:
    assert world.catalog.settling.free_ended() == 0
    world.halt(lease_id)
    world.clock.advance(800)
    world.chain.mine()
    assert world.catalog.settling.free_ended() == 0


def test_only_the_witness_may_say_again(world: World, lease_id: str) -> None:
    for signer in (world.meter, world.buyer, world.provider, world.stranger):
        with pytest.raises(InvalidSignature, match="not its witness"):
            world.stop(lease_id, signer, again=True)
    world.halt(lease_id, world.meter)
    for signer in (world.meter, world.buyer):
        with pytest.raises(InvalidSignature, match="not its witness"):
            world.stop(lease_id, signer, again=True)
    assert again_intents(world, lease_id) == []


@pytest.mark.parametrize(
    ("outcome", "again"),
    [("succeeded", False), ("cancelled", False), ("failed", True)],
)
def test_a_close_says_again_only_if_the_job_is_retried_after_such_an_end(
    world: World, outcome: str, again: bool
) -> None:
    job_id, lease_id = world.start(retry={"on_events": ["error"], "duration": "1h"})
    ten_seconds(world, lease_id)
    report = world.report(lease_id, 2, 10_000, outcome=outcome)
    assert report.close.message.again is again
    other = replace(report.close.message, again=not again)
    half = world.signed(SignedClose, world.meter, message=other)
    bad = report.model_copy(update={"close": half})
    with pytest.raises(InvalidInput) as refusal:
        world.do(world.catalog.ends.finish, world.provider, lease_id, bad)
    assert [problem.pointer for problem in refusal.value.problems] == ["/close/message"]
    assert world.lease(lease_id).close is None
    world.end(lease_id, 2, 10_000, outcome=outcome)
    lease = world.lease(lease_id)
    assert (lease.state, lease.again, lease.stop_requested) == ("closed", again, None)
    assert world.job(job_id).state == ("queued" if again else outcome)


def test_a_close_of_a_job_that_is_not_retried_never_says_again(world: World, lease_id: str) -> None:
    report = world.report(lease_id, 2, 10_000, outcome="failed")
    half = world.signed(SignedClose, world.meter, message=replace(report.close.message, again=True))
    with pytest.raises(InvalidInput, match="`again` false"):
        world.do(world.catalog.ends.finish, world.provider, lease_id,
                 report.model_copy(update={"close": half}))  # fmt: skip


def test_a_retried_job_whose_close_says_again_needs_no_stop(world: World) -> None:
    world.ask(price="2.00")
    second = world.offer(price="2.50")
    job_id, lease_id = world.open(retry={"on_events": ["error"], "duration": "1h"})
    ten_seconds(world, lease_id)
    world.end(lease_id, 2, 10_000, outcome="failed", exit_code=1)
    assert pending(world) == []
    world.match()
    lease = world.lease(world.job(job_id).lease_id or "")
    assert (lease.ask_id, lease.state) == (second, "opening")
