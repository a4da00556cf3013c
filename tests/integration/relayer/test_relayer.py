"""The relayer against Anvil: each intent has one effect or a told reason."""

from __future__ import annotations

from settlement.chain.deploy import EscrowSettings
from settlement.chain.devnet import dev_account
from settlement.chain.wallets import MAGIC
from settlement.eip712 import checksum
from settlement.events import Closed, Opened, Settled
from settlement.leases import LeaseStatus
from settlement.ports import IntentKind, IntentState, later_key
from settlement.relayer import RelayerSettings
from settlement.vetting import NOTHING_TO_SETTLE
from tests.escrow_world import SETTINGS, Lease, World
from tests.relayer_bench import FAR_AWAY, GWEI, Bench


def test_open_settle_close_each_become_final_with_one_effect(bench: Bench) -> None:
    match = bench.world.match()
    opening = bench.enqueue(IntentKind.OPEN, bench.world.escrow.calls.open(match))
    assert bench.tick().sent == 1
    bench.tick_until(opening)
    (opened,) = (
        e.event
        for e in bench.world.escrow.events(0, bench.world.client.head().number)
        if isinstance(e.event, Opened) and e.event.bid_hash == match.bid.struct_hash()
    )
    lease = Lease(bench.world, match, opened)
    bench.world.chain.warp(60)
    settling = bench.enqueue(
        IntentKind.SETTLE, bench.world.escrow.calls.settle([lease.voucher(30_000)])
    )
    bench.tick_until(settling)
    closing = bench.enqueue(IntentKind.CLOSE, lease.close(40_000))
    bench.tick_until(closing)
    view = lease.view()
    assert (view.status, view.used_ms) == (LeaseStatus.CLOSED, 40_000)
    assert bench.sent_transactions() == 3
    assert bench.alerts == []


def test_an_intent_is_final_only_below_its_confirmations(bench: Bench) -> None:
    bench.settings = RelayerSettings(confirmations=3)
    number, _ = bench.enqueue_open()
    bench.tick_until(number, state=IntentState.CONFIRMED)
    bench.mine(2)
    bench.tick()
    assert bench.state(number) is IntentState.CONFIRMED
    bench.mine(1)
    bench.tick_until(number)


def test_a_certain_revert_is_dead_with_its_error_and_costs_nothing(bench: Bench) -> None:
    match = bench.world.match(bench.world.ask(expiry=1))
    number = bench.enqueue(IntentKind.OPEN, bench.world.escrow.calls.open(match))
    healthy, bid_hash = bench.enqueue_open()
    assert bench.tick().dead == 1
    intent = bench.store.get(number)
    assert intent.state is IntentState.DEAD
    assert intent.nonce is None
    assert (intent.error or "").startswith("OrderExpired(1, ")
    assert bench.alerts == [(number, intent.error)]
    bench.tick_until(healthy)
    assert bench.opened(bid_hash) == 1
    assert bench.sent_transactions() == 1


def test_an_account_that_burns_gas_is_refused_and_costs_nobody_anything(bench: Bench) -> None:
    burner = checksum("0x" + "c2" * 20)
    count_down = "6203d0905b6001900380600457"  # 250,000 times, some 6.5 million gas
    yes = f"5063{MAGIC.hex()}60e01b5f5260205ff3"
    bench.world.client.rpc("anvil_setCode", burner, "0x" + count_down + yes)
    match = bench.world.match(bench.world.ask(provider=burner))
    number = bench.enqueue(IntentKind.OPEN, bench.world.escrow.calls.open(match))
    healthy, bid_hash = bench.enqueue_open()
    bench.tick_until(healthy)
    intent = bench.store.get(number)
    assert (intent.state, intent.nonce) == (IntentState.DEAD, None)
    assert bench.opened(bid_hash) == 1
    assert bench.sent_transactions() == 1


def test_a_malformed_intent_is_dead_and_blocks_nobody(bench: Bench) -> None:
    bad = bench.store.enqueue(IntentKind.STOP, "bad", {"to": "nowhere", "data": "0x"})
    odd = bench.enqueue(IntentKind.SETTLE, b"\x01\x02\x03\x04")
    cut = bench.enqueue(IntentKind.SETTLE, bench.world.escrow.calls.withdraw(FAR_AWAY, 1)[:20])
    healthy, _ = bench.enqueue_open()
    bench.tick_until(bad.id, odd, cut, state=IntentState.DEAD)
    bench.tick_until(healthy)


def test_a_revert_after_broadcast_is_dead_with_its_error(bench: Bench) -> None:
    lease = bench.world.open()
    bench.world.chain.warp(10)
    number = bench.enqueue(IntentKind.CLOSE, lease.close(5_000))
    bench.automine(False)
    bench.tick()
    assert bench.state(number) is IntentState.SENT
    rival = dev_account(5)  # pays more, so it is mined first
    fields = {
        "type": 2, "chainId": 31337, "to": bench.world.escrow.address, "data": lease.close(6_000),
        "value": 0, "gas": 300_000, "maxFeePerGas": 100 * GWEI, "maxPriorityFeePerGas": 90 * GWEI,
        "nonce": bench.world.client.nonce(rival.address),
    }  # fmt: skip
    bench.world.client.send_raw(rival.sign_transaction(fields)[0])
    bench.mine()
    bench.tick()
    intent = bench.store.get(number)
    assert intent.state is IntentState.DEAD
    assert (intent.error or "").startswith("LeaseNotOpen(")
    assert bench.alerts == [(number, intent.error)]
    assert lease.view().used_ms == 6_000
    bench.automine(True)
    after, _ = bench.enqueue_open()  # the nonce was used up, the next one follows
    bench.tick_until(after)


def test_settle_drops_stale_vouchers_and_sends_early_ones_later(bench: Bench) -> None:
    world = bench.world
    stale, fresh, early = (world.open() for _ in range(3))
    world.chain.warp(100)
    world.send(world.relayer, world.escrow.calls.settle([stale.voucher(50_000)]))
    vouchers = [
        stale.voucher(50_000),
        fresh.voucher(20_000),
        fresh.voucher(20_000),
        early.voucher(400_000),
        fresh.voucher(30_000, signer=world.stranger),
    ]
    number = bench.enqueue(IntentKind.SETTLE, world.escrow.calls.settle(vouchers))
    bench.tick_until(number)
    intent = bench.store.get(number)
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
    number = bench.enqueue(IntentKind.SETTLE_METERED, world.escrow.calls.settle_metered([voucher]))
    assert bench.tick().held == 1
    assert bench.state(number) is IntentState.PENDING
    world.chain.warp(50)
    bench.tick_until(number)
    counted = world.escrow.counted(lease.ref)
    assert (counted.egress_mib, counted.units) == (100, 7)


def test_settle_of_stale_vouchers_alone_has_nothing_to_do(bench: Bench) -> None:
    lease = bench.world.open()
    bench.world.chain.warp(100)
    calls = bench.world.escrow.calls
    bench.world.send(bench.world.relayer, calls.settle([lease.voucher(50_000)]))
    number = bench.enqueue(IntentKind.SETTLE, calls.settle([lease.voucher(40_000)]))
    bench.tick()
    assert bench.store.get(number).error == NOTHING_TO_SETTLE
    assert bench.sent_transactions() == 0


def test_a_close_ahead_of_the_clock_waits_for_it(bench: Bench) -> None:
    lease = bench.world.open()
    number = bench.enqueue(IntentKind.CLOSE, lease.close(200_000))
    assert bench.tick().held == 1
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


def test_many_intents_have_one_nonce_each(bench: Bench) -> None:
    bench.settings = RelayerSettings(confirmations=0, max_in_flight=4)
    bids = [bench.enqueue_open()[1] for _ in range(7)]  # the node sells eight
    assert bench.tick().sent == 4
    bench.tick_until(*(intent.id for intent in bench.store.recent(100)))
    intents = bench.store.recent(100)[::-1]
    assert sorted(i.nonce or 0 for i in intents) == list(range(7))
    assert [bench.opened(bid) for bid in bids] == [1] * 7


def test_events_of_a_relayed_life_add_up(bench: Bench) -> None:
    world = bench.world
    lease = world.open()
    world.chain.warp(30)
    first = world.client.head().number + 1
    calls = world.escrow.calls
    bench.tick_until(bench.enqueue(IntentKind.SETTLE, calls.settle([lease.voucher(10_000)])))
    bench.tick_until(bench.enqueue(IntentKind.CLOSE, lease.close(20_000)))
    events = [e.event for e in world.escrow.events(first, world.client.head().number)]
    assert [type(e) for e in events] == [Settled, Closed]


def test_settings_of_the_world_are_those_deployed(world: World) -> None:
    config = world.escrow.config()
    assert (
        EscrowSettings(
            config.fee_bps,
            config.fee_recipient.lower(),
            config.settle_window,
        )
        == SETTINGS
    )
