"""Whole lives of leases on two chains: every balance equals the Python mirror to the atom."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import pytest

from settlement import units
from settlement.chain.calls import open_batch_gas
from settlement.chain.devnet import dev_account
from settlement.errors import CallReverted
from settlement.events import Opened
from settlement.leases import LeaseStatus, OrderState, Params
from settlement.orders import Prices, Quote, lease_no, terms_of
from settlement.reconcile import expected_view, ref_of
from settlement.signing import sign
from tests.escrow_orders import EscrowOrders
from tests.escrow_world import FAR, SETTINGS, TOKEN, EvmChain, Lease, World, anvil, found

FAR_AWAY = "0x" + "77" * 20
PARAMS = Params(18, SETTINGS.fee_bps)


@pytest.fixture(scope="module", params=["tester", "anvil"])
def deployed(request: pytest.FixtureRequest) -> Iterator[World]:
    with nullcontext(EvmChain()) if request.param == "tester" else anvil() as chain:
        world = found(chain)
        world.fund(1_000 * TOKEN)
        yield world


def assert_mirrored(world: World) -> EscrowOrders:
    """Check that all the contract stores equals the fold, and that its tokens cover it exactly."""
    state, escrow = world.state(), world.escrow
    for account, amount in state.balances.items():
        assert escrow.balance_of(account) == amount
    for provider, amount in state.fees.items():
        assert escrow.fees_of(provider) == amount
    for (provider, node), milli in state.capacity.items():
        assert escrow.capacity_used(provider, node) == milli
    for account, salt in state.used | state.cancelled:
        order = (account, salt)
        void = order in state.cancelled or salt < state.lowest.get(account, 0)
        expected = OrderState(order in state.used, void)
        assert escrow.order_state(account, salt) == expected
    for account, lowest in state.lowest.items():
        assert escrow.orders_from(account) == lowest
    for (bid_hash, seat), record in state.seats.items():
        assert escrow.read("bidRecord", bid_hash, seat) == record
    for lease in state.leases.values():
        assert expected_view(lease, PARAMS) == escrow.lease(ref_of(lease))
    assert world.token.balance_of(escrow.address) == state.held()
    return state


def earned(gross: int) -> tuple[int, int]:
    """What a provider gets of a gross amount, and the fee."""
    fee = units.fee_of(gross, SETTINGS.fee_bps)
    return gross - fee, fee


def test_time_settled_twice_closed_and_withdrawn(world: World) -> None:
    escrow, buyer, provider = world.escrow, world.buyer.address, world.provider.address
    before = escrow.balance_of(buyer), escrow.balance_of(provider), escrow.fees_of(provider)
    lease = world.open()
    terms = terms_of(lease.match.ask, lease.match.bid, lease.match.prices)
    assert lease.opened.locked == terms.lock
    assert escrow.balance_of(buyer) == before[0] - terms.lock
    world.chain.warp(100)
    for ms in (33_333, 66_667):
        world.settle(lease.voucher(ms))
        net, fee = earned(units.cost(terms.rate, ms))
        assert escrow.balance_of(provider) == before[1] + net
        assert escrow.fees_of(provider) == before[2] + fee
    world.send(world.stranger, lease.close(70_001))
    gross = units.cost(terms.rate, 70_001)
    assert escrow.balance_of(provider) == before[1] + earned(gross)[0]
    assert escrow.balance_of(buyer) == before[0] - gross
    assert lease.view().status is LeaseStatus.CLOSED
    income = escrow.balance_of(provider)
    held = world.token.balance_of(FAR_AWAY)
    world.send(world.provider, escrow.calls.withdraw(FAR_AWAY, income))
    assert world.token.balance_of(FAR_AWAY) == held + income
    assert_mirrored(world)


def test_deposit_by_permit_metered_settled_stopped_and_refunded(world: World) -> None:
    escrow, buyer = world.escrow, world.buyer
    amount = 50 * TOKEN
    world.give(amount)
    before = escrow.balance_of(buyer.address)
    signature = world.permit(amount)
    world.send(buyer, escrow.calls.deposit_with_permit(amount, FAR, signature))
    assert escrow.balance_of(buyer.address) == before + amount
    prices = Prices(2_000_000_007, 10_000_001, 3_000_001, 1_000_003, 20_000_003, 500_009)
    bid = world.metered_bid(storage_mib=12_345, max_seconds=600)
    ask = world.ask(floor=prices)
    lease = world.open(world.match(ask, bid))
    terms = terms_of(ask, bid, prices)
    assert (lease.opened.rate, lease.opened.locked) == (terms.rate, terms.lock)
    world.chain.warp(120)
    provider = world.provider.address
    income = escrow.balance_of(provider)
    world.settle(lease.metered(10_001, 77, 13))
    time = earned(units.cost(terms.rate, 10_001))
    counted = earned(units.counted_cost(prices.egress_gib, prices.unit, 77, 13))
    assert escrow.balance_of(provider) == income + time[0] + counted[0]
    world.send(world.stranger, lease.stop(world.meter))
    view = lease.view()
    assert view.status is LeaseStatus.STOPPED
    world.settle(lease.metered(110_000, 99, 12))
    counts = escrow.counted(lease.ref)
    assert (counts.egress_mib, counts.units) == (99, 13)  # each figure's highest
    world.chain.warp(view.end - world.client.timestamp() + SETTINGS.settle_window + 1)
    world.send(world.stranger, escrow.calls.refund(lease.ref))
    gross = units.cost(terms.rate, 110_000)
    gross += units.counted_cost(prices.egress_gib, prices.unit, 99, 13)
    assert escrow.balance_of(buyer.address) == before + amount - gross
    assert lease.view().released == gross
    assert_mirrored(world)


def test_settle_pays_two_providers_in_one_batch(world: World) -> None:
    other = dev_account(6)
    ask = world.ask(provider=other.address, node=7)
    bid = world.bid()
    by_other = sign(ask, world.escrow.domain(), other)
    mixed = replace(world.match(ask, bid), ask_signature=by_other)
    one, two, three = world.open(), world.open(mixed), world.open()
    world.chain.warp(60)
    before = [world.escrow.balance_of(a) for a in (world.provider.address, other.address)]
    world.settle(one.voucher(10_000), two.voucher(20_000), three.voucher(30_000))
    rate = one.opened.rate
    first = earned(units.cost(rate, 10_000))[0] + earned(units.cost(rate, 30_000))[0]
    assert world.escrow.balance_of(world.provider.address) == before[0] + first
    assert world.escrow.balance_of(other.address) == before[1] + earned(units.cost(rate, 20_000))[0]
    for lease in (one, two, three):
        world.send(world.relayer, lease.close(30_000) if lease is not two else two.close(20_000))
    assert_mirrored(world)


def test_a_quote_sets_the_prices(world: World) -> None:
    ask = world.ask(floor=Prices(1_000_000_000))
    quote = Quote(ask.struct_hash(), Prices(3_000_000_000), FAR)
    match = world.match(
        ask, quote=quote, quote_signature=sign(quote, world.escrow.domain(), world.meter)
    )
    lease = world.open(match)
    assert lease.opened.rate == 3 * units.RATE_SCALE
    world.send(world.buyer, world.escrow.calls.stop(lease.ref))
    world.send(world.relayer, lease.close(0))
    assert_mirrored(world)


def test_a_budget_shorter_than_the_job_caps_the_lock(world: World) -> None:
    bid = world.bid(budget=TOKEN // 7)
    lease = world.open(world.match(bid=bid))
    terms = terms_of(lease.match.ask, bid, lease.match.prices)
    assert terms.budget_limited
    assert (lease.opened.funded, lease.opened.locked) == (terms.funded_seconds, terms.lock)
    assert lease.opened.locked <= bid.budget
    world.chain.warp(lease.opened.funded + 10)
    voucher = lease.voucher((lease.opened.funded + 5) * 1_000)  # above funded: paid as funded
    world.settle(voucher)
    assert lease.view().used_ms == lease.opened.funded * 1_000
    world.send(world.relayer, lease.close(lease.opened.funded * 1_000))
    assert_mirrored(world)


def test_a_second_lease_of_a_bid_spends_what_the_first_left(world: World) -> None:
    bid = world.bid(budget=4 * TOKEN, max_seconds=3_600)
    first = world.open(world.match(bid=bid))
    world.chain.warp(600)
    world.settle(first.voucher(500_000))
    world.send(world.buyer, world.escrow.calls.stop(first.ref))
    ask = world.ask(node=2)
    again = world.match(ask, bid, previous=first.previous)
    second = world.open(again)
    left = bid.budget - units.time_lock(first.opened.rate, first.view().funded)
    terms = terms_of(ask, bid, again.prices, left)
    assert (second.opened.funded, second.opened.locked) == (terms.funded_seconds, terms.lock)
    state = assert_mirrored(world)
    assert state.seats[(bid.struct_hash(), 0)][0] == second.number
    world.send(world.relayer, second.close(0))
    world.send(world.relayer, first.close(550_000))
    assert_mirrored(world)


def test_open_batch_skips_what_does_not_fit(world: World) -> None:
    good = [world.match() for _ in range(2)]
    bad = world.match(world.ask(expiry=1))
    data = world.escrow.calls.open_batch([good[0], bad, good[1]])
    before = len(world.state().leases)
    world.send(world.relayer, data, gas=open_batch_gas(3))
    state = assert_mirrored(world)
    assert len(state.leases) == before + 2
    for match in good:
        assert (world.buyer.address, match.bid.salt) in state.used


def test_fees_are_collected_to_the_recipient(world: World) -> None:
    lease = world.open()
    world.chain.warp(60)
    world.send(world.relayer, lease.close(60_000))
    provider, recipient = world.provider.address, world.escrow.config().fee_recipient
    owed, before = world.escrow.fees_of(provider), world.escrow.balance_of(recipient)
    assert owed > 0
    world.send(world.stranger, world.escrow.calls.collect_fees([provider, FAR_AWAY]))
    assert world.escrow.fees_of(provider) == 0
    assert world.escrow.balance_of(recipient) == before + owed
    assert_mirrored(world)


def test_a_top_up_extends_the_lease_and_locks_more(world: World) -> None:
    bid = world.bid(max_seconds=600)
    lease = world.open(world.match(bid=bid))
    before = lease.view()
    world.send(world.buyer, world.escrow.calls.top_up(lease.orders, bid, 300))
    after = lease.view()
    assert (after.end, after.start) == (before.end + 300, before.start)
    assert after.locked == units.time_lock(lease.opened.rate, after.funded)
    world.chain.warp(after.funded)
    world.settle(lease.voucher(850_000))
    assert lease.view().used_ms == 850_000
    assert_mirrored(world)


def test_a_bid_of_two_nodes_opens_both_seats_or_none(world: World) -> None:
    bid = world.bid(nodes=2, budget=8 * TOKEN)
    asks = [world.ask(node=21), world.ask(node=22)]
    seats = [world.match(ask, bid, seat=i) for i, ask in enumerate(asks)]
    broken = [seats[0], replace(seats[1], seat=0)]
    with pytest.raises(CallReverted, match="SeatTaken"):
        world.send(world.relayer, world.escrow.calls.open_all(broken))
    world.send(world.relayer, world.escrow.calls.open_all(seats[::-1]))
    state = assert_mirrored(world)
    numbers = [lease_no(bid.struct_hash(), ask.struct_hash(), ask.meter) for ask in asks]
    assert [state.leases[number].seat for number in numbers] == [0, 1]
    terms = terms_of(asks[0], bid, asks[0].floor)
    assert state.leases[numbers[0]].lock(PARAMS) == terms.lock
    opened = (event for event in world.events() if isinstance(event, Opened))
    lost = Lease(world, seats[1], next(e for e in opened if e.lease_no == numbers[1]))
    world.send(world.buyer, world.escrow.calls.stop(lost.ref))
    again = world.match(world.ask(node=23), bid, seat=1, previous=lost.previous)
    world.send(world.relayer, world.escrow.calls.open(again))
    assert_mirrored(world)


def test_cancelled_orders_open_nothing_and_older_ones_neither(world: World) -> None:
    kept, one, two = (world.match() for _ in range(3))
    salts = [match.bid.salt for match in (kept, one, two)]
    world.send(world.stranger, world.cancel(salts[1]))
    with pytest.raises(CallReverted, match="CancelledOrder"):
        world.open(one)
    world.open(kept)
    world.send(world.stranger, world.cancel(two.ask.salt, signer=world.provider))
    with pytest.raises(CallReverted, match="CancelledOrder"):
        world.open(two)
    world.send(world.stranger, world.cancel(salts[2], and_older=True))
    assert world.escrow.orders_from(world.buyer.address) == salts[2] + 1
    assert_mirrored(world)
