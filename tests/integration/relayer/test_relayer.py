"""The relayer against Anvil: each intent has one effect, or an alert says why not."""

from typing import Any

import pytest

from settlement.chain.contracts import MAGIC
from settlement.chain.devnet import dev_account
from settlement.eip712 import checksum
from settlement.events import Closed, Opened, Settled
from settlement.leases import LeaseStatus
from settlement.ports import IntentKind, IntentState, later_key
from settlement.relayer import RelayerSettings
from settlement.vetting import NOTHING_TO_FREE, NOTHING_TO_SETTLE
from tests.escrow_world import SETTINGS, Lease
from tests.relayer_bench import FAR_AWAY, Bench


def test_open_settle_close_each_become_final_with_one_effect(bench: Bench) -> None:
    world, first = bench.world, bench.world.client.head().number + 1
    match = world.match()
    opening = bench.enqueue(IntentKind.OPEN, world.escrow.calls.open(match))
    assert bench.tick().sent == 1
    bench.tick_until(opening)
    (opened,) = (event for event in world.events(first) if isinstance(event, Opened))
    lease = Lease(world, match, opened)
    world.chain.warp(60)
    data = world.escrow.calls.settle([lease.voucher(30_000)])
    bench.tick_until(bench.enqueue(IntentKind.SETTLE, data))
    bench.tick_until(bench.enqueue(IntentKind.CLOSE, lease.close(40_000)))
    view = lease.view()
    assert (view.status, view.used_ms) == (LeaseStatus.CLOSED, 40_000)
    assert bench.sent_transactions() == 3
    assert [type(event) for event in world.events(first)] == [Opened, Settled, Closed]
    assert bench.alerts == []


def test_an_intent_is_final_only_below_its_confirmations(bench: Bench) -> None:
    bench.settings = RelayerSettings(confirmations=3)
    number = bench.enqueue_open()
    bench.tick_until(number, state=IntentState.CONFIRMED)
    bench.mine(2)
    bench.tick()
    assert bench.get(number).state is IntentState.CONFIRMED
    bench.mine(1)
    bench.tick_until(number)


def test_a_certain_revert_is_dead_with_its_error_and_costs_nothing(bench: Bench) -> None:
    match = bench.world.match(bench.world.ask(expiry=1))
    number = bench.enqueue(IntentKind.OPEN, bench.world.escrow.calls.open(match))
    healthy = bench.enqueue_open()
    assert bench.tick().dead == 1
    intent = bench.get(number)
    assert intent.state is IntentState.DEAD
    assert intent.nonce is None
    assert (intent.error or "").startswith("OrderExpired(1, ")
    assert bench.alerts == [(number, intent.error)]
    bench.finish(healthy)
    assert bench.sent_transactions() == 1


def test_an_account_that_burns_gas_is_refused_and_costs_nobody_anything(bench: Bench) -> None:
    burner = checksum("0x" + "c2" * 20)
    count_down = "6203d0905b6001900380600457"  # a loop that burns about 6.5 million gas
    yes = f"5063{MAGIC.hex()}60e01b5f5260205ff3"
    bench.world.client.rpc("anvil_setCode", burner, "0x" + count_down + yes)
    match = bench.world.match(bench.world.ask(provider=burner))
    number = bench.enqueue(IntentKind.OPEN, bench.world.escrow.calls.open(match))
    healthy = bench.enqueue_open()
    bench.finish(healthy)
    intent = bench.get(number)
    assert (intent.state, intent.nonce) == (IntentState.DEAD, None)
    assert bench.sent_transactions() == 1


def signed_withdrawal(bench: Bench, seconds: int, fee: int = 5, **changes: Any) -> bytes:
    """A withdrawal of a hundred atoms that the buyer signed, for this relayer only."""
    world = bench.world
    usual = {"deadline": world.client.timestamp() + seconds, "relayer": bench.signer.address}
    return world.withdrawal(100, FAR_AWAY, fee=fee, **{**usual, **changes})


def test_a_signed_withdrawal_pays_its_receiver_and_the_relayer(bench: Bench) -> None:
    world = bench.world
    bench.tick_until(bench.enqueue(IntentKind.WITHDRAW, signed_withdrawal(bench, 600)))
    assert world.token.balance_of(FAR_AWAY) == 95
    assert world.escrow.balance_of(bench.signer.address) == 5


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"seconds": 10}, "the deadline is"),
        ({"seconds": 600, "relayer": FAR_AWAY}, "NotRelayer("),
        ({"seconds": 600, "fee": 100}, "RelayFeeTooHigh(100, 100)"),
        ({"seconds": 600, "signer": dev_account(4)}, "InsufficientBalance("),
    ],
)
def test_a_signed_call_that_would_fail_is_dead_and_costs_nothing(
    bench: Bench, changes: dict[str, Any], error: str
) -> None:
    number = bench.enqueue(IntentKind.WITHDRAW, signed_withdrawal(bench, **changes))
    healthy = bench.enqueue_open()
    bench.finish(healthy)
    intent = bench.get(number)
    assert (intent.state, intent.nonce) == (IntentState.DEAD, None)
    assert error in (intent.error or "")
    assert bench.sent_transactions() == 1


def test_a_signed_call_is_sent_once_whoever_hands_it_in_again(bench: Bench) -> None:
    data = signed_withdrawal(bench, 600)
    bench.tick_until(bench.enqueue(IntentKind.WITHDRAW, data))
    again = bench.enqueue(IntentKind.WITHDRAW, data)
    bench.tick_until(again, state=IntentState.DEAD)
    assert (bench.get(again).error or "").startswith("CallUsed(")
    assert bench.world.token.balance_of(FAR_AWAY) == 95
    assert bench.sent_transactions() == 1


def test_a_malformed_intent_is_dead_and_blocks_nobody(bench: Bench) -> None:
    bad = bench.store.enqueue(IntentKind.STOP, "bad", {"to": "nowhere", "data": "0x"})
    odd = bench.enqueue(IntentKind.SETTLE, b"\x01\x02\x03\x04")
    cut = bench.enqueue(IntentKind.SETTLE, bench.world.escrow.calls.withdraw(FAR_AWAY, 1)[:20])
    healthy = bench.enqueue_open()
    bench.tick_until(bad.id, odd, cut, state=IntentState.DEAD)
    bench.tick_until(healthy)


def test_a_revert_after_broadcast_is_dead_with_its_error(bench: Bench) -> None:
    lease = bench.world.open()
    bench.world.chain.warp(10)
    number = bench.enqueue(IntentKind.CLOSE, lease.close(5_000))
    bench.automine(False)
    bench.tick()
    assert bench.get(number).state is IntentState.SENT
    # A rival pays more, so its transaction is mined first.
    bench.world.broadcast(dev_account(5), lease.close(6_000), gas=300_000, gwei=100)
    bench.mine()
    bench.tick()
    intent = bench.get(number)
    assert intent.state is IntentState.DEAD
    assert (intent.error or "").startswith("LeaseNotOpen(")
    assert bench.alerts == [(number, intent.error)]
    assert lease.view().used_ms == 6_000
    bench.automine(True)
    bench.finish(bench.enqueue_open())  # the revert used the nonce; the next one follows


def test_settle_drops_stale_vouchers_and_sends_early_ones_later(bench: Bench) -> None:
    world = bench.world
    stale, fresh, early = (world.open() for _ in range(3))
    world.chain.warp(100)
    world.settle(stale.voucher(50_000))
    vouchers = [
        stale.voucher(50_000),
        fresh.voucher(20_000),
        fresh.voucher(20_000),
        early.voucher(400_000),
        fresh.voucher(30_000, signer=world.stranger),
    ]
    number = bench.enqueue(IntentKind.SETTLE, world.escrow.calls.settle(vouchers))
    bench.tick_until(number)
    intent = bench.get(number)
    data = bytes.fromhex(intent.payload["data"][2:])
    assert world.escrow.calls.vouchers(data) == (vouchers[1],)
    (later,) = bench.store.pending(10)
    assert later.key == later_key(intent.key, later.payload)
    assert fresh.view().used_ms == 20_000
    assert early.view().used_ms == 0
    world.chain.warp(400)
    bench.tick_until(later.id)
    assert early.view().used_ms == 400_000
    assert bench.sent_transactions() == 2


def test_settle_metered_that_is_early_waits_with_its_counted_figures(bench: Bench) -> None:
    world = bench.world
    lease = world.open(world.match(bid=world.metered_bid()))
    world.chain.warp(10)
    voucher = lease.metered(50_000, 100, 7)
    data = world.escrow.calls.settle([voucher], metered=True)
    number = bench.enqueue(IntentKind.SETTLE_METERED, data)
    assert bench.tick().held == 1
    assert bench.get(number).state is IntentState.PENDING
    world.chain.warp(50)
    bench.tick_until(number)
    counted = world.escrow.counted(lease.ref)
    assert (counted.egress_mib, counted.units) == (100, 7)


def test_settle_of_only_stale_vouchers_has_nothing_to_do(bench: Bench) -> None:
    lease = bench.world.open()
    bench.world.chain.warp(100)
    bench.world.settle(lease.voucher(50_000))
    data = bench.world.escrow.calls.settle([lease.voucher(40_000)])
    number = bench.enqueue(IntentKind.SETTLE, data)
    bench.tick()
    assert bench.get(number).error == NOTHING_TO_SETTLE
    assert bench.sent_transactions() == 0


def test_a_close_ahead_of_the_clock_waits_for_it(bench: Bench) -> None:
    lease = bench.world.open()
    number = bench.enqueue(IntentKind.CLOSE, lease.close(200_000))
    for _ in range(2):
        assert bench.tick().held == 1
    bench.world.chain.warp(200)
    bench.tick_until(number)
    assert lease.view().used_ms == 200_000


def test_a_refund_too_early_waits_and_is_not_given_up(bench: Bench) -> None:
    lease = bench.world.open(bench.world.match(bid=bench.world.bid(max_seconds=60)))
    number = bench.enqueue(IntentKind.REFUND, bench.world.escrow.calls.refund(lease.ref))
    for _ in range(5):
        assert bench.tick().held == 1
    bench.world.chain.warp(60 + SETTINGS.settle_window + 1)
    bench.tick_until(number)
    assert lease.view().status is LeaseStatus.CLOSED


def test_a_voucher_beyond_the_paid_time_has_nothing_to_do(bench: Bench) -> None:
    world = bench.world
    ask, bid = world.ask(start_limit_seconds=600), world.bid(max_seconds=60)
    lease = world.open(world.match(ask, bid))
    world.chain.warp(100)
    world.settle(lease.voucher(60_000))
    for ms in (90_000, 650_000):  # funded, but only to make up for a late start; early, too
        data = world.escrow.calls.settle([lease.voucher(ms)])
        number = bench.enqueue(IntentKind.SETTLE, data)
        bench.tick()
        assert bench.get(number).error == NOTHING_TO_SETTLE
    assert bench.sent_transactions() == 0


def test_a_stop_that_its_deadline_has_overtaken_is_dead_and_costs_nothing(bench: Bench) -> None:
    lease = bench.world.open()
    deadline = bench.world.client.timestamp() + 30
    in_time = bench.world.open().stop(bench.world.witness, again=True, deadline=deadline)
    bench.tick_until(bench.enqueue(IntentKind.STOP, in_time))
    bench.world.chain.warp(31)
    late = lease.stop(bench.world.witness, again=True, deadline=deadline)
    number = bench.enqueue(IntentKind.STOP, late)
    bench.tick()
    assert (bench.get(number).error or "").startswith("SignatureExpired(")
    assert bench.sent_transactions() == 1


def test_leases_are_freed_once_and_nothing_is_sent_where_none_has_ended(bench: Bench) -> None:
    world = bench.world
    over, going = (world.open(world.match(bid=world.bid(max_seconds=s))) for s in (60, 3_600))
    world.chain.warp(61)
    data = world.escrow.calls.free([over.ref, going.ref])
    bench.tick_until(bench.enqueue(IntentKind.FREE, data))
    states = (over.view().status, going.view().status)
    assert states == (LeaseStatus.STOPPED, LeaseStatus.ACTIVE)
    number = bench.enqueue(IntentKind.FREE, data)
    bench.tick()
    assert bench.get(number).error == NOTHING_TO_FREE
    assert bench.sent_transactions() == 1


def test_many_intents_have_one_nonce_each(bench: Bench) -> None:
    bench.settings = RelayerSettings(confirmations=0, max_in_flight=4)
    numbers = [bench.enqueue_open() for _ in range(7)]  # the node sells eight
    assert bench.tick().sent == 4
    bench.finish(*numbers)
    assert sorted(bench.get(number).nonce or 0 for number in numbers) == list(range(7))
