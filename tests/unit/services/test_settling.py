"""Vouchers into settlements: the best one, once, in batches, again after a refusal."""

import pytest

from marketplace.db.tables import ReceiptRow
from marketplace.services import settling
from settlement.ports import IntentKind, IntentState
from tests.market_world import TOKEN, World


def intents(world: World, kind: IntentKind) -> list[str]:
    """Keys of all intents of a kind, oldest first."""
    found, number = [], 1
    while True:
        try:
            intent = world.chain.outbox.get(number)
        except KeyError:
            return found
        if intent.kind is kind:
            found.append(intent.key)
        number += 1


def running(world: World, **changes: object) -> str:
    _, lease_id = world.open(**changes)
    world.use(lease_id, 0, 0)
    return lease_id


@pytest.fixture
def lease_id(world: World) -> str:
    """A lease whose job has just begun to run."""
    world.offer()
    return running(world)


def settled(world: World) -> int:
    """How many vouchers go into settlements, which the chain then takes."""
    count = world.catalog.settling.settle()
    world.chain.mine()
    return count


def five_used(world: World) -> list[str]:
    """Running leases, each with two seconds countersigned."""
    leases = [running(world) for _ in range(5)]
    world.clock.advance(2)
    for lease_id in leases:
        world.use(lease_id, 1, 2_000)
    return leases


def test_only_the_greatest_voucher_is_sent_and_each_step_is_paid_once(
    world: World, lease_id: str
) -> None:
    for sequence in (1, 2, 3):
        world.use(lease_id, sequence, sequence * 1_000, after=1)
    assert world.catalog.settling.settle() == 1
    assert settled(world) == 0
    assert world.lease(lease_id).settled["ms"] == 3_000
    assert world.catalog.settling.settle() == 0
    world.use(lease_id, 4, 4_000, after=1)
    assert settled(world) == 1
    assert world.chain.balances[world.provider.address] == 4_000 * 2500 * TOKEN // 3_600_000_000
    assert len(intents(world, IntentKind.SETTLE)) == 2


def test_many_leases_go_into_one_batch(world: World) -> None:
    world.offer(world.node(gpus=5))
    leases = five_used(world)
    assert settled(world) == 5
    assert len(intents(world, IntentKind.SETTLE)) == 1
    assert all(world.lease(x).settled["ms"] == 2_000 for x in leases)


def test_a_voucher_that_comes_while_one_is_in_flight_waits_for_it(
    world: World, lease_id: str
) -> None:
    world.use(lease_id, 1, 1_000, after=1)
    world.catalog.settling.settle()
    world.use(lease_id, 2, 2_000, after=1)
    assert settled(world) == 0
    assert world.lease(lease_id).settled["ms"] == 1_000
    assert settled(world) == 1
    assert world.lease(lease_id).settled["ms"] == 2_000


def test_a_refused_settlement_is_tried_again_after_a_while(world: World, lease_id: str) -> None:
    world.use(lease_id, 1, 1_000, after=1)
    world.catalog.settling.settle()
    (key,) = intents(world, IntentKind.SETTLE)
    world.chain.refusals[key] = "UsageAheadOfTime(1, 2)"
    world.chain.mine()
    with world.database.read() as store:
        assert store.intent(key).state is IntentState.DEAD
        created_ms = int(store.intent(key).created_at.timestamp() * 1000)
    world.clock.ms = created_ms + 14_000
    assert world.catalog.settling.settle() == 0
    world.clock.ms = created_ms + 16_000
    world.chain.mine()
    assert world.catalog.settling.settle() == 1


def test_a_close_under_way_pays_everything_so_nothing_is_settled_beside_it(
    world: World, lease_id: str
) -> None:
    world.use(lease_id, 1, 3_000, after=3)
    world.finish(lease_id, 2, 3_000)
    world.close(lease_id)
    assert settled(world) == 0
    assert world.lease(lease_id).state == "closed"
    assert world.catalog.settling.settle() == 0


def test_counted_usage_goes_its_own_way(world: World) -> None:
    world.offer(prices={"unit": "0.001"}, unit="request")
    lease_id = running(world, units={"name": "request", "max": 100, "max_price": "0.01"})
    world.use(lease_id, 1, 2_000, units=40, after=2)
    assert settled(world) == 1
    assert intents(world, IntentKind.SETTLE) == []
    assert len(intents(world, IntentKind.SETTLE_METERED)) == 1
    assert world.lease(lease_id).settled == {"ms": 2_000, "egress_mib": 0, "units": 40}
    time = 2_000 * 2500 * TOKEN // 3_600_000_000
    assert world.chain.balances[world.provider.address] == time + TOKEN * 40 // 1000


def test_a_voucher_countersigned_long_after_the_end_is_paid_within_the_window(
    world: World, lease_id: str
) -> None:
    row, refusal = world.attest(lease_id, 1, 5_000, after=5)
    assert refusal is None
    world.halt(lease_id)
    world.clock.advance(119)
    world.chain.mine()
    world.countersign(row)
    assert settled(world) == 1
    assert world.lease(lease_id).settled["ms"] == 5_000
    assert world.chain.balances[world.provider.address] == 5_000 * 2500 * TOKEN // 3_600_000_000


def test_after_end_and_window_the_rest_is_refunded_without_anyone(
    world: World, lease_id: str
) -> None:
    world.use(lease_id, 1, 5_000, after=5)
    world.catalog.settling.settle()
    world.chain.mine()
    assert world.catalog.settling.refund() == 0
    world.clock.advance(660 + 120)
    world.chain.mine()
    assert world.catalog.settling.refund() == 1
    assert world.catalog.settling.refund() == 0
    world.chain.mine()
    paid = 5_000 * 2500 * TOKEN // 3_600_000_000
    assert world.chain.balances[world.buyer.address] == 100 * TOKEN - paid
    (row,) = world.rows(ReceiptRow)
    assert row.document["conserved"] is True


def test_a_batch_is_as_small_as_one_transaction_takes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settling.BATCH_MAX * 44_000 * 5 // 4 < 2**24
    monkeypatch.setattr(settling, "BATCH_MAX", 2)
    world.offer(world.node(gpus=5))
    leases = five_used(world)
    assert world.catalog.settling.settle() == 5
    assert len(intents(world, IntentKind.SETTLE)) == 3
    world.chain.mine()
    assert all(world.lease(x).settled["ms"] == 2_000 for x in leases)


def test_vouchers_of_an_intent_that_cannot_be_sent_go_into_another_one(
    world: World, lease_id: str
) -> None:
    world.use(lease_id, 1, 1_000, after=1)
    world.catalog.settling.settle()
    with world.database.read() as store:
        intent = store.intent(*intents(world, IntentKind.SETTLE))
    world.clock.ms = int(intent.created_at.timestamp() * 1000) + 601_000
    assert world.catalog.settling.settle() == 0  # nobody tried it: the relayer is away
    world.chain.outbox.note_attempt(intent.id, "gas required exceeds allowance")
    world.clock.ms -= 2_000
    assert world.catalog.settling.settle() == 0
    world.clock.ms += 2_000
    assert world.catalog.settling.settle() == 1
    assert world.catalog.settling.settle() == 0


def test_a_refund_that_died_is_asked_for_again_at_ever_longer_pauses(
    world: World, lease_id: str
) -> None:
    world.clock.advance(660 + 120 + 5)
    world.chain.mine()
    ask, name = world.catalog.settling.refund, f"refund:{lease_id}"
    for number, pause_s in ((1, 60), (2, 120), (3, 240)):
        assert ask() == 1
        assert ask() == 0
        key = intents(world, IntentKind.REFUND)[-1]
        assert key == (name if number == 1 else f"{name}/{number}")
        with world.database.read() as store:
            intent = store.intent(key)
        world.chain.outbox.mark_dead(intent.id, "the node refused the call")
        world.clock.ms = int(intent.created_at.timestamp() * 1000) + pause_s * 1000 - 500
        assert ask() == 0
        world.clock.ms += 1_000
    assert ask() == 1
    world.chain.mine()
    assert world.lease(lease_id).state == "closed"
    with world.database.read() as store:
        tries = store.tries(name)
    assert (tries.key, tries.dead, tries.is_free) == (f"{name}/4", 3, False)


def test_only_who_leads_asks_for_refunds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.offer()
    running(world)
    world.clock.advance(660 + 120 + 5)
    world.chain.mine()
    with world.database.read() as store:
        kind = type(store)
    with monkeypatch.context() as follows:
        follows.setattr(kind, "lead", lambda self, name: False)
        assert world.catalog.settling.refund() == 0
    assert world.catalog.settling.refund() == 1
