"""The worst that each party can do, alone and together: docs/escrow.md says it, this shows it."""

import re

import pytest

from settlement.chain.abi import artifact
from settlement.chain.calls import LeaseRef
from settlement.errors import CallReverted
from settlement.leases import LeaseStatus
from settlement.units import cost
from tests.escrow_world import TOKEN, Lease, World

POWERS = re.compile(r"owner|admin|pause|upgrade|guardian|^set(?!tle)|^init|rescue", re.IGNORECASE)


def test_meter_and_witness_together_may_close_below_what_was_countersigned(world: World) -> None:
    lease = world.open()
    world.chain.warp(100)
    voucher = lease.voucher(90_000)
    for half in ({"meter": world.stranger}, {"witness": world.stranger}):
        with pytest.raises(CallReverted):
            world.send(world.stranger, lease.close(10_000, **half))
    world.send(world.stranger, lease.close(10_000))
    paid = cost(lease.opened.rate, 10_000)
    assert (lease.view().status, lease.view().released) == (LeaseStatus.CLOSED, paid)
    with pytest.raises(CallReverted):  # a closed lease pays no voucher any more
        settle_whole(world, lease, voucher)


def settle_whole(world: World, lease: Lease, voucher: object) -> None:
    """Settle a voucher, or raise if the escrow skips it."""
    _, skipped = world.escrow.simulate_settle([voucher], False, world.relayer.address, "latest")  # type: ignore[list-item]
    if skipped:
        raise CallReverted("skipped", ())
    raise AssertionError(f"{lease.number.hex()} was paid after its close")


def test_opener_witness_and_provider_together_take_a_bids_budget_and_not_an_atom_more(
    world: World,
) -> None:
    """They let the seat open again and again, and sign usage that never was."""
    budget = 2 * TOKEN
    bid = world.bid(opener=world.relayer.address, budget=budget, max_seconds=1_000)
    before = world.escrow.balance_of(bid.buyer)
    taken = 0
    previous = None
    while True:
        match = world.match(bid=bid, previous=previous)
        if budget - taken < cost(match.ask.floor.rate(bid.sizes()), match.ask.min_seconds * 1_000):
            break
        lease = world.open(match)
        world.chain.warp(lease.opened.funded)
        world.send(world.relayer, lease.close(lease.opened.funded * 1_000, again=True))
        taken += lease.view().released
        previous = lease.previous
    with pytest.raises(CallReverted, match="BudgetTooSmall"):
        world.open(match)
    assert 0 <= budget - taken < cost(lease.opened.rate, 1_000)
    assert world.escrow.balance_of(bid.buyer) == before - taken


def test_a_bid_that_its_opener_never_opens_leaves_its_money_free(world: World) -> None:
    bid = world.bid(opener=world.relayer.address)
    match = world.match(bid=bid)
    with pytest.raises(CallReverted, match="NotOpener"):
        world.send(world.stranger, world.escrow.calls.open(match))
    free = world.escrow.balance_of(bid.buyer)
    world.send(world.buyer, world.escrow.calls.withdraw(bid.buyer, free))
    assert world.escrow.balance_of(bid.buyer) == 0
    with pytest.raises(CallReverted, match="InsufficientBalance"):
        world.send(world.relayer, world.escrow.calls.open(match))
    ref: LeaseRef = match.ref
    assert world.escrow.lease(ref).status is LeaseStatus.NONE


def test_no_function_of_the_escrow_is_for_an_owner() -> None:
    functions = {e["name"] for e in artifact("ComputeEscrow").abi if e["type"] == "function"}
    assert len(functions) > 30
    assert {name for name in functions if POWERS.search(name)} == set()


def test_a_stop_of_one_lease_and_a_gift_change_no_other_lease_or_balance(world: World) -> None:
    lease, other = world.open(), world.open()
    before = other.view(), world.escrow.balance_of(world.buyer.address)
    world.give(TOKEN)
    world.send(world.buyer, world.token.transfer(world.escrow.address, TOKEN), world.token.address)
    assert (other.view(), world.escrow.balance_of(world.buyer.address)) == before
    world.send(world.provider, world.escrow.calls.stop(lease.ref))
    assert other.view() == before[0]
