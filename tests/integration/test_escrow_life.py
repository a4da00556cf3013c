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
from settlement.leases import LeaseStatus, Params, SaltState
from settlement.orders import Cancel, Numbered, Prices, Quote, terms_of
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
    for number in state.used | state.cancelled:
        account, kind, salt = number
        void = number in state.cancelled or salt < state.lowest.get((account, kind), 0)
        expected = SaltState(number in state.used, void)
        assert escrow.salt_state(account, salt, Numbered(kind)) == expected
    for (account, kind), lowest in state.lowest.items():
        assert escrow.salts_from(account, Numbered(kind)) == lowest
    for (bid_hash, seat), record in state.seats.items():
        of_bid = [lease.seat for lease in state.leases.values() if lease.bid_hash == bid_hash]
        nothing_kept = of_bid == [0]  # of the first lease of a bid for one node
        found = escrow.read("bidRecord", bid_hash, seat)
        assert found == ((bytes(16), 0) if nothing_kept else record)
    for address, purse in state.purses.items():
        assert escrow.purse(address) == purse
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
    assert lease.opened.prices_hash == quote.prices.struct_hash()
    world.send(world.buyer, world.escrow.calls.stop(lease.ref))
    world.send(world.relayer, lease.close(0))
    assert_mirrored(world)


def test_a_budget_shorter_than_the_job_caps_the_lock(world: World) -> None:
    bid = world.bid(budget=TOKEN // 7)
    lease = world.open(world.match(world.ask(start_limit_seconds=45), bid))
    terms = terms_of(lease.match.ask, bid, lease.match.prices)
    assert terms.budget_limited
    assert (lease.opened.funded, lease.opened.locked) == (terms.funded_seconds, terms.lock)
    assert lease.opened.locked <= bid.budget
    world.chain.warp(lease.opened.funded + 10)
    voucher = lease.voucher((lease.opened.funded + 5) * 1_000)  # paid up to the paid time
    world.settle(voucher)
    assert lease.opened.funded == terms.paid_seconds + 45
    assert lease.view().used_ms == terms.paid_seconds * 1_000
    world.send(world.relayer, lease.close(lease.opened.funded * 1_000))
    assert lease.view().used_ms == terms.paid_seconds * 1_000
    assert_mirrored(world)


def test_a_second_lease_of_a_bid_spends_what_the_first_left(world: World) -> None:
    bid = world.bid(budget=4 * TOKEN, max_seconds=3_600)
    first = world.open(world.match(world.ask(start_limit_seconds=60), bid))
    world.chain.warp(600)
    world.settle(first.voucher(500_000))
    world.send(world.buyer, world.escrow.calls.stop(first.ref, again=True))
    ask = world.ask(node=2)
    again = world.match(ask, bid, previous=first.previous)
    second = world.open(again)
    stopped = first.view()
    left = bid.budget - units.time_lock(first.opened.rate, stopped.funded - stopped.start_seconds)
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
        assert (world.buyer.address, Numbered.ORDERS, match.bid.salt) in state.used


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
    lease = world.open(world.match(world.ask(start_limit_seconds=30), bid))
    before = lease.view()
    world.send(world.buyer, world.escrow.calls.top_up(lease.match.opened, 300))
    after = lease.view()
    assert (after.end, after.start) == (before.end + 300, before.start)
    assert (after.funded, after.start_seconds) == (930, 30)
    assert after.locked == units.time_lock(lease.opened.rate, 900)
    world.chain.warp(after.funded)
    world.settle(lease.voucher(850_000))
    assert lease.view().used_ms == 850_000
    world.settle(lease.voucher(930_000))
    assert lease.view().used_ms == 900_000
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
    numbers = [match.ref.lease_no for match in seats]
    assert [state.leases[number].seat for number in numbers] == [0, 1]
    terms = terms_of(asks[0], bid, asks[0].floor)
    assert state.leases[numbers[0]].lock(PARAMS) == terms.lock
    opened = (event for event in world.events() if isinstance(event, Opened))
    lost = Lease(world, seats[1], next(e for e in opened if e.lease_no == numbers[1]))
    world.send(world.buyer, world.escrow.calls.stop(lost.ref, again=True))
    world.chain.warp(601)  # later ones are not bound to the time of the first
    again = world.match(world.ask(node=23), bid, seat=1, previous=lost.previous)
    world.send(world.relayer, world.escrow.calls.open(again))
    assert_mirrored(world)


def test_seats_open_first_within_ten_minutes_and_one_ask_may_take_several(world: World) -> None:
    bid = world.bid(nodes=3, budget=12 * TOKEN)
    ask = world.ask(node=24)
    seats = [world.match(ask, bid, seat=i) for i in range(3)]
    leases = [world.open(seats[0])]
    world.chain.warp(590)
    leases.append(world.open(seats[1]))
    assert world.escrow.capacity_used(world.provider.address, 24) == 2_000
    world.chain.warp(11)
    with pytest.raises(CallReverted, match="SeatsClosed"):
        world.open(seats[2])
    assert len({seat.ref.lease_no for seat in seats}) == 3
    for lease in leases:
        world.send(world.relayer, lease.close(5_000))
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
    assert world.escrow.salts_from(world.buyer.address) == salts[2] + 1
    assert world.escrow.salts_from(world.buyer.address, Numbered.CALLS) == 0
    assert_mirrored(world)


def test_a_stop_cuts_the_time_for_a_late_start_first(world: World) -> None:
    ask, bid = world.ask(start_limit_seconds=600), world.bid(max_seconds=300)
    lease = world.open(world.match(ask, bid))
    full = lease.view()
    assert full.locked == units.time_lock(full.rate, 300)
    world.chain.warp(700)
    world.send(world.provider, world.escrow.calls.stop(lease.ref))
    view = lease.view()
    assert view.end - view.start == view.funded < 900
    assert view.funded - view.start_seconds == 300
    assert view.locked == full.locked
    world.settle(lease.voucher(view.funded * 1_000))
    assert lease.view().used_ms == 300_000
    assert world.escrow.capacity_used(world.provider.address, ask.node) == 0
    assert_mirrored(world)


@pytest.mark.parametrize("after", ["stop", "close", "refund"])
def test_a_seat_opens_again_only_by_the_mark(world: World, after: str) -> None:
    bid = world.bid(budget=8 * TOKEN, max_seconds=600)
    first = world.open(world.match(bid=bid))
    world.chain.warp(60)
    if after == "stop":
        world.send(world.provider, world.escrow.calls.stop(first.ref))
    elif after == "close":
        world.send(world.relayer, first.close(50_000))
    else:
        world.chain.warp(600 + SETTINGS.settle_window)
        world.send(world.relayer, world.escrow.calls.refund(first.ref))
    follower = world.match(world.ask(node=2), bid, previous=first.previous)
    with pytest.raises(CallReverted, match="NotMarkedAgain"):
        world.open(follower)
    plain = first.view()
    world.send(world.relayer, first.stop(world.witness, again=True))
    assert first.view() == replace(plain, again=True)
    assert_mirrored(world)
    second = world.open(follower)
    assert assert_mirrored(world).seats[bid.struct_hash(), 0][0] == second.number


def test_a_close_may_mark_the_lease(world: World) -> None:
    bid = world.bid(budget=8 * TOKEN)
    first = world.open(world.match(bid=bid))
    world.chain.warp(60)
    world.send(world.relayer, first.close(50_000, again=True))
    assert first.view().again
    world.open(world.match(world.ask(node=2), bid, previous=first.previous))
    assert_mirrored(world)


def test_leases_past_their_end_are_freed_by_anyone(world: World) -> None:
    ask = world.ask(node=51, start_limit_seconds=30)
    over, going = (world.open(world.match(ask, world.bid(max_seconds=s))) for s in (60, 3_600))
    ended = over.view().end
    world.chain.warp(120)
    refs = [over.ref, going.ref]
    assert world.escrow.read("free", refs) == b"\x02"
    world.send(world.stranger, world.escrow.calls.free(refs))
    view = over.view()
    assert (view.status, view.end, view.again) == (LeaseStatus.STOPPED, ended, False)
    assert view.locked == units.time_lock(view.rate, 60)
    assert world.escrow.capacity_used(world.provider.address, 51) == 1_000
    assert_mirrored(world)
    world.settle(over.voucher(60_000))
    world.send(world.relayer, over.close(60_000))
    assert_mirrored(world)


def test_a_node_without_a_gpu_keeps_no_capacity(world: World) -> None:
    ask, bid = world.ask(node=52, flags=3), world.bid(gpu_milli=0, flags=2)
    lease = world.open(world.match(replace(ask, floor=Prices(0, 10**8)), bid))
    assert lease.opened.rate == 8 * 10**11
    assert world.escrow.capacity_used(world.provider.address, 52) == 0
    world.send(world.buyer, world.escrow.calls.stop(lease.ref))
    assert_mirrored(world)


def test_an_operator_spends_from_a_purse_and_the_owner_takes_back_the_rest(world: World) -> None:
    escrow, buyer, operator = world.escrow, world.buyer, world.stranger
    free = escrow.balance_of(buyer.address)
    purse = world.purse(operator, 20 * TOKEN, expiry=FAR - 1)
    world.send(buyer, escrow.calls.fund_purse(purse, 5 * TOKEN))
    assert (escrow.balance_of(purse), escrow.balance_of(buyer.address)) == (
        25 * TOKEN, free - 25 * TOKEN,
    )  # fmt: skip
    bid = world.bid(buyer=purse, max_seconds=600)
    by_operator = sign(bid, escrow.domain(), operator)
    lease = world.open(replace(world.match(bid=bid), bid_signature=by_operator))
    world.send(operator, escrow.calls.top_up(lease.match.opened, 60))
    world.send(world.relayer, lease.top_up(30, operator))
    assert lease.view().funded == 690
    world.chain.warp(100)
    world.settle(lease.voucher(90_000))
    world.send(buyer, escrow.calls.expire_purse(purse, world.client.timestamp() - 1))
    other = world.bid(buyer=purse)
    by_operator = sign(other, escrow.domain(), operator)
    with pytest.raises(CallReverted, match="PurseExpired"):
        world.open(replace(world.match(bid=other), bid_signature=by_operator))
    world.send(operator, escrow.calls.stop(lease.ref, again=True))  # to end is still possible
    world.send(world.relayer, lease.close(90_000))
    rest = 25 * TOKEN - units.cost(lease.opened.rate, 90_000)
    assert escrow.balance_of(purse) == rest
    world.send(buyer, escrow.calls.sweep_purse(purse, rest))
    assert escrow.balance_of(buyer.address) == free - units.cost(lease.opened.rate, 90_000)
    assert_mirrored(world)


def test_whoever_sends_signed_calls_is_paid_what_they_offer(world: World) -> None:
    escrow, buyer, relayer = world.escrow, world.buyer.address, world.relayer.address
    before = escrow.balance_of(buyer), escrow.balance_of(relayer)
    held = world.token.balance_of(FAR_AWAY)
    world.send(world.relayer, world.withdrawal(TOKEN, FAR_AWAY, fee=7, relayer=relayer))
    assert world.token.balance_of(FAR_AWAY) == held + TOKEN - 7
    assert (escrow.balance_of(buyer), escrow.balance_of(relayer)) == (
        before[0] - TOKEN, before[1] + 7,
    )  # fmt: skip
    lease = world.open(world.match(bid=world.bid(max_seconds=600)))
    world.send(world.relayer, lease.top_up(300, fee=11))
    locked = units.time_lock(lease.opened.rate, 900)
    assert lease.view().locked == locked
    assert escrow.balance_of(buyer) == before[0] - TOKEN - locked - 11
    assert escrow.balance_of(relayer) == before[1] + 18
    state = assert_mirrored(world)
    assert len([kind for _, kind, _ in state.used if kind is Numbered.CALLS]) == 2


def test_a_signed_call_is_cancelled_apart_from_orders(world: World) -> None:
    call = world.withdrawal(TOKEN, FAR_AWAY)
    salt = world.bid().salt
    cancel = Cancel(world.buyer.address, Numbered.CALLS, salt, True)
    signature = sign(cancel, world.escrow.domain(), world.buyer)
    world.send(world.stranger, world.escrow.calls.cancel(cancel, signature))
    with pytest.raises(CallReverted, match="CallUsed"):
        world.send(world.relayer, call)
    world.open()  # orders of lower numbers go on
    assert_mirrored(world)
