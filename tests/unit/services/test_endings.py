"""Every other way a lease ends: stopped, lost, never witnessed, run out, moved to the next ask."""

from dataclasses import replace
from typing import Any

import pytest

from marketplace.db.tables import IntentRow, NodeRow, OrderEntryRow
from marketplace.domain.reliability import reliability_milli
from marketplace.errors import Conflict, InvalidInput, InvalidSignature
from marketplace.limits import STOP_SECONDS_MAX
from marketplace.services.settling import FREE_AFTER_S
from marketplace.services.views import job_view, lease_view
from marketplace.wire.leases import SignedClose, SignedStop
from settlement.attestation import Stop
from settlement.events import MarkedAgain, Stopped
from settlement.ports import BlockRef, IntentKind, LoggedEvent
from settlement.signing import LocalSigner
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
    world.catalog.watchdog.give_up_retries()


def settle(world: World, after: float = 0) -> None:
    if after:
        world.clock.advance(after)
        world.chain.mine()
    world.catalog.settling.settle()
    world.catalog.settling.free_ended()
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
    assert (lease.state, lease.stop_requested, lease.again) == ("stopped", None, True)
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
    assert (lease.stop_requested, pending(world)) == (None, [(lease_id, None)])
    world.halt(lease_id, again=True)
    world.match()
    assert world.job(job_id).state == "failed"


def test_a_job_cancelled_while_it_waits_for_the_mark_ends_and_asks_the_witness_no_more(
    world: World,
) -> None:
    job_id, lease_id = waiting_for_mark(world)
    world.do(world.catalog.jobs.cancel, world.buyer, job_id)
    assert (world.job(job_id).state, world.lease(lease_id).stop_requested) == ("cancelled", None)
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
    assert (lease.state, lease.again, lease.stop_requested) == ("stopped", False, None)
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


def test_only_the_witness_may_say_again(world: World, lease_id: str) -> None:
    for signer in (world.meter, world.buyer, world.provider, world.stranger):
        with pytest.raises(InvalidSignature, match="not its witness"):
            world.stop(lease_id, signer, again=True)
    world.halt(lease_id, world.meter)
    for signer in (world.meter, world.buyer):
        with pytest.raises(InvalidSignature, match="not its witness"):
            world.stop(lease_id, signer, again=True)
    assert again_intents(world, lease_id) == []


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
    with pytest.raises(InvalidInput, match="nothing of again"):
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
