"""An account whose side stops many leases before they are ready waits; nobody else does."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from marketplace.domain.life import JobState
from marketplace.errors import TooManyStops
from marketplace.services.common import Principal
from settlement.eip712 import checksum
from settlement.errors import ChainUnavailable
from settlement.events import Stopped
from settlement.leases import Side
from settlement.signing import LocalSigner
from tests.market_world import TOKEN, World, key_of, new_world, sqlite_world
from tests.unit.services.conftest import watch

MOST = 2
HOUR_S = 3_600


@pytest.fixture
def world() -> Iterator[World]:
    """A market with room for many leases, in which two stops an hour are let pass."""
    with new_world(early_stops_max=MOST) as made:
        supply(made)
        yield made


def supply(world: World) -> None:
    for _ in range(3 * MOST + 4):
        world.offer()
    world.fund(1_000, world.stranger)


def cancel(world: World, buyer: LocalSigner | None = None) -> str:
    """A lease that its buyer cancels before its job is ready."""
    job_id, lease_id = world.open(buyer=buyer)
    world.do(world.catalog.jobs.cancel, buyer or world.buyer, job_id)
    return lease_id


def stopped_past_the_server(world: World, side: Side | None) -> str:
    """A lease that some party stops by a transaction of its own."""
    _, lease_id = world.open()
    lease = world.lease(lease_id)
    names = (lease.lease_bytes, lease.buyer, lease.provider)
    world.chain.direct.append(Stopped(*names, world.clock() // 1000, 0))
    if side is not None:
        world.chain.stoppers[lease.lease_bytes] = side
    world.chain.mine()
    return lease_id


def assert_refused(world: World) -> int:
    with pytest.raises(TooManyStops) as caught:
        world.submit()
    assert "before their jobs were ready" in str(caught.value)
    return int(caught.value.facts["retry_after_seconds"])


def assert_taken(world: World, buyer: LocalSigner | None = None) -> None:
    job_id = world.queue(buyer)
    assert world.job(job_id).state is JobState.MATCHED


@pytest.mark.parametrize("way", ["cancelled", "stopped on chain"])
def test_one_stop_too_many_refuses_new_bids_until_the_hour_has_moved_on(
    world: World, way: str
) -> None:
    for _ in range(MOST + 1):
        assert_taken(world)
        if way == "cancelled":
            cancel(world)
        else:
            stopped_past_the_server(world, Side.BUYER)
            assert world.catalog.stops.judge() == 1
        world.clock.advance(60)
    # The first of the three has to be an hour ago.
    assert assert_refused(world) == HOUR_S - 60 * (MOST + 1)
    assert_taken(world, world.stranger)  # another account buys as before
    world.clock.advance(HOUR_S - 60 * (MOST + 1) - 1)
    assert assert_refused(world) == 1
    world.clock.advance(1)
    assert_taken(world)
    cancel(world)
    assert assert_refused(world) == 60


@pytest.mark.parametrize("side", [Side.PROVIDER, Side.NOBODY])
def test_stops_of_others_never_count(world: World, side: Side) -> None:
    for _ in range(MOST + 2):
        lease_id = stopped_past_the_server(world, side)
        world.catalog.stops.judge()
        assert world.lease(lease_id).stopped_by is side
    assert_taken(world)


def test_a_stop_of_the_meter_through_the_server_never_counts(world: World) -> None:
    for _ in range(MOST + 2):
        _, lease_id = world.open()
        world.chain.stoppers[world.lease(lease_id).lease_bytes] = Side.PROVIDER
        world.halt(lease_id, world.meter)
        world.catalog.stops.judge()
    assert_taken(world)


def test_a_stop_of_a_provider_that_is_late_or_silent_never_counts(world: World) -> None:
    """The witness signs it, because the server asks for it."""
    for after in (61, 21, 61, 21):
        _, lease_id = world.open()
        watch(world, after)
        assert world.lease(lease_id).stop_requested is not None
        world.halt(lease_id)
        assert world.lease(lease_id).stopped_ms is None
        assert world.catalog.stops.judge() == 0
        world.ask()
    assert world.chain.asked_who == 0
    assert_taken(world)


def test_ending_a_job_that_is_ready_never_counts(world: World) -> None:
    for _ in range(MOST + 1):
        job_id, lease_id = world.open()
        world.use(lease_id, 0, 0)
        world.do(world.catalog.jobs.cancel, world.buyer, job_id)
        _, other = world.open()
        world.use(other, 0, 0)
        lease = world.lease(other)
        names = (lease.lease_bytes, lease.buyer, lease.provider)
        world.chain.direct.append(Stopped(*names, world.clock() // 1000, 0))
        world.chain.stoppers[lease.lease_bytes] = Side.BUYER
        world.chain.mine()
        world.catalog.stops.judge()
        world.offer()
    assert_taken(world)


def test_a_job_cancelled_while_its_lease_opens_counts_once_it_has_opened(world: World) -> None:
    jobs = [world.queue() for _ in range(MOST + 1)]
    for job_id in jobs:
        world.do(world.catalog.jobs.cancel, world.buyer, job_id)
    assert_taken(world)
    world.chain.mine()
    assert_refused(world)


def test_a_lease_that_opens_late_and_is_given_up_never_counts(world: World) -> None:
    """The market itself gives it up: its job has long gone on."""
    for _ in range(MOST + 1):
        lease_id = world.refuse_opening(world.queue(), "CapacityExceeded()")
        world.match()
        world.chain.refusals.clear()
        world.open_late(lease_id)
        assert world.lease(lease_id).stop_requested == "cancelled"
        assert world.lease(lease_id).stopped_ms is None


def test_resting_bids_wait_until_the_hour_has_moved_on(world: World) -> None:
    retry = {"on_events": ["no-capacity"], "duration": "1d"}
    dear = {"pricing": {"max_gpu_hour": "9.00"}, "budget": {"max_total": "9"}}
    rests = {**dear, "retry": retry, "start_deadline": "1d", "resources": {"gpu": "H100:2"}}
    mine = world.queue(**rests)
    for _ in range(MOST + 1):
        cancel(world)
    world.match()
    other = world.queue(world.stranger, **rests)
    assert {world.job(job).state for job in (mine, other)} == {JobState.QUEUED}
    world.ask(world.node(gpus=4), price="3.00")
    assert world.job(other).state is JobState.MATCHED
    assert world.job(mine).state is JobState.QUEUED  # it came first, but it waits
    world.clock.advance(HOUR_S)
    world.match()
    assert world.job(mine).state is JobState.MATCHED


def test_a_restart_forgets_no_stop_and_lets_no_resting_bid_through(tmp_path: Path) -> None:
    before = sqlite_world(tmp_path, early_stops_max=MOST)
    supply(before)
    retry = {"on_events": ["no-capacity"], "duration": "1d"}
    rests = {"retry": retry, "start_deadline": "1d", "resources": {"gpu": "H100:2"}}
    mine = before.queue(**rests, pricing={"max_gpu_hour": "9.00"}, budget={"max_total": "9"})
    for _ in range(MOST + 1):
        cancel(before)
    before.match()
    before.database.close()
    after = sqlite_world(tmp_path, early_stops_max=MOST)
    after.chain.balances = before.chain.balances
    assert_refused(after)
    after._numbers = count(100)
    after.ask(after.node(gpus=2), price="3.00")
    assert after.job(mine).state is JobState.QUEUED
    after.clock.advance(HOUR_S)
    after.match()
    assert after.job(mine).state is JobState.MATCHED
    after.database.close()


def test_who_stopped_a_lease_is_asked_again_when_the_chain_is_back(world: World) -> None:
    lease_id = stopped_past_the_server(world, Side.BUYER)
    world.chain.down = ChainUnavailable("away")
    assert world.catalog.stops.judge() == 0
    assert world.lease(lease_id).stopped_by is None
    world.chain.down = None
    assert world.catalog.stops.judge() == 1
    assert world.catalog.stops.judge() == 0
    assert world.chain.asked_who == 1


def test_a_job_that_was_ready_after_all_is_not_counted(world: World) -> None:
    """Its reading was on the way when the buyer cancelled."""
    lease_ids = [cancel(world) for _ in range(MOST + 1)]
    assert_refused(world)
    world.use(lease_ids[0], 0, 0)
    assert_taken(world)


def test_a_stop_that_a_reorg_takes_back_is_not_counted(world: World) -> None:
    lease_ids = [stopped_past_the_server(world, Side.BUYER) for _ in range(MOST + 1)]
    assert world.catalog.stops.judge() == MOST + 1
    assert_refused(world)
    world.chain.events.rollback(world.chain.height - 1)
    assert world.lease(lease_ids[-1]).stopped_ms is None
    assert_taken(world)


def test_no_stop_at_all_may_be_let_pass(tmp_path: Path) -> None:
    with new_world(early_stops_max=0) as strict:
        supply(strict)
        assert_taken(strict)
        cancel(strict)
        assert assert_refused(strict) == HOUR_S


def fail_in_block(world: World, job_id: str, error: str) -> str:
    """The opening of a job's lease is mined and fails, and the market notices; the lease."""
    lease_id = world.job(job_id).lease_id or ""
    with world.database.read() as store:
        intent = store.intent(f"open:{lease_id}")
    assert intent is not None
    outbox, number, tx_hash = world.chain.outbox, 900 + intent.id, f"0x{intent.id:064x}"
    outbox.mark_signed(intent.id, world.stranger.address, number, b"raw", tx_hash)
    outbox.mark_sent(intent.id)
    outbox.mark_confirmed(intent.id, tx_hash, 1, tx_hash)
    outbox.mark_dead(intent.id, error)
    world.catalog.settling.failed_opens()
    return lease_id


def test_openings_that_a_buyer_makes_fail_in_their_block_count(world: World) -> None:
    """It takes its money away between the last look at the chain and the block."""
    for _ in range(MOST + 1):
        assert_taken(world)
        lease_id = fail_in_block(world, world.queue(), "InsufficientBalance(0, 5)")
        assert world.lease(lease_id).stopped_by is Side.BUYER
    assert_refused(world)
    world.clock.advance(HOUR_S)
    assert_taken(world)


def test_a_contract_buyer_whose_opening_fails_for_no_known_reason_tries_no_other_ask(
    world: World,
) -> None:
    """Its code says yes to whoever asks, and burns the relayer's gas in the block: once for a bid,
    and not once for each ask."""
    wallet, owner = checksum("0x" + "c7" * 20), key_of("wallet owner")
    world.chain.wallets[wallet] = owner.address
    world.chain.balances[wallet] = 100 * TOKEN
    caller = Principal(wallet, ("buyer",), None)
    signed = world.sign_order(*world.order(0, wallet), owner)
    order = world.catalog.jobs.check(caller, signed)
    with world.database.write() as store:
        job_id = world.catalog.jobs.submit(store, caller, order).id
    world.match()
    lease_id = fail_in_block(world, job_id, "unknown(transaction 0x12 failed)")
    assert world.job(job_id).state is JobState.FAILED
    assert world.lease(lease_id).stopped_by is Side.BUYER


def test_an_opening_of_keys_that_fails_for_no_known_reason_is_nobodys_fault(world: World) -> None:
    job_id = world.queue()
    lease_id = fail_in_block(world, job_id, "unknown(transaction 0x12 failed)")
    assert world.job(job_id).state is not JobState.FAILED
    assert world.lease(lease_id).stopped_by is None
