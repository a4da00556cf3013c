"""The contract computes what Python computes, to the atom, on random terms.

View functions are compared directly; the rest by opening, settling and closing real leases.
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from settlement import units
from settlement.chain.calls import Match, as_tuple
from settlement.eip712 import checksum
from settlement.errors import CallReverted
from settlement.leases import EscrowState, LeaseStatus
from settlement.orders import (
    FLAG_NO_GPU,
    FLAG_SHARED,
    Ask,
    Bid,
    Prices,
    Quote,
    Terms,
    TierLimit,
    lease_no,
    purse_of,
    terms_hash,
    terms_of,
)
from settlement.reconcile import expected_view, ref_of
from tests.conftest import NIGHTLY
from tests.escrow_world import SETTINGS, TIER, TOKEN, Lease, World, anvil_world
from tests.struct_strategies import addresses, structs_of

LIVES = settings(
    max_examples=300 if NIGHTLY else 20,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking a life takes minutes
    suppress_health_check=[HealthCheck.too_slow],
)
VIEWS = settings(max_examples=1_000 if NIGHTLY else 30)

PATIENT = replace(SETTINGS, settle_window=30 * 86_400)  # the shortest lease stays open to settle

prices = st.builds(
    Prices,
    gpu_hour=st.integers(0, 50 * 10**9),
    cpu_hour=st.integers(0, 10**9),
    memory_gib_hour=st.integers(0, 10**9),
    storage_gib_hour=st.integers(0, 10**8),
    egress_gib=st.integers(0, 10**9),
    unit=st.integers(0, 10**8),
)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with anvil_world(PATIENT) as world:
        yield world


shapes = st.fixed_dictionaries(
    {
        "gpu_milli": st.integers(0, 999) | st.integers(1, 8).map(lambda n: n * 1_000),
        "cpu_milli": st.integers(0, 64_000),
        "memory_mib": st.integers(0, 1 << 20),
        "storage_mib": st.integers(0, 1 << 20),
        "egress_mib": st.integers(0, 1 << 20),
        "units": st.integers(0, 10**6),
        "max_seconds": st.integers(1, 86_400),
        "budget": st.integers(0, 3_000 * TOKEN),
    }
)
"""The fields of a bid that its terms depend on."""
start_limits = st.integers(0, 600)


def orders(world: World, floor: Prices, start_limit: int, shape: dict[str, int]) -> tuple[Ask, Bid]:
    flags = FLAG_SHARED | FLAG_NO_GPU
    ask = world.ask(floor=floor, start_limit_seconds=start_limit, flags=flags)
    return ask, world.bid(**shape, flags=flags, unit=ask.unit if shape["units"] else bytes(32))


def can_open(ask: Ask, bid: Bid, terms: Terms) -> bool:
    """Whether the budget covers the least that `ComputeEscrow.open` asks for."""
    return terms.counted_lock <= bid.budget and terms.paid_seconds >= max(ask.min_seconds, 1)


@VIEWS
@given(rate=st.integers(0, 2**64 - 1), ms=st.integers(0, 2**40 - 1))
def test_cost_equals_the_contracts(world: World, rate: int, ms: int) -> None:
    assert world.escrow.read("cost", rate, ms) == units.cost(rate, ms)


@VIEWS
@given(data=st.data())
def test_struct_hashes_equal_the_contracts(world: World, data: st.DataObject) -> None:
    for kind in (Ask, Bid, Quote, Prices):
        order = data.draw(structs_of(kind))
        found = world.escrow.read(f"hash{order.primary}", as_tuple(order))
        assert found == order.struct_hash()


words = st.binary(min_size=32, max_size=32)


@VIEWS
@given(hashes=st.tuples(words, words, words), seat=st.integers(0, 2**16 - 1), meter=addresses)
def test_lease_number_equals_the_contracts(
    world: World, hashes: tuple[bytes, bytes, bytes], seat: int, meter: str
) -> None:
    found = world.escrow.read("leaseNoOf", *hashes, seat, meter)
    assert found == lease_no(terms_hash(*hashes, seat), meter)


@VIEWS
@given(owner=addresses, operator=addresses, salt=st.integers(0, 2**64 - 1))
def test_a_purses_address_equals_the_contracts(
    world: World, owner: str, operator: str, salt: int
) -> None:
    found = world.escrow.read("purseOf", owner, operator, salt)
    assert checksum(found) == purse_of(world.escrow.domain(), owner, operator, salt)


def test_domain_separators_equal_the_contracts(world: World) -> None:
    assert world.escrow.read("domainSeparator") == world.escrow.domain().separator()
    assert world.token.read("DOMAIN_SEPARATOR") == world.token.domain().separator()


@LIVES
@given(floor=prices, start_limit=start_limits, shape=shapes)
def test_terms_equal_what_open_freezes(
    world: World, floor: Prices, start_limit: int, shape: dict[str, int]
) -> None:
    ask, bid = orders(world, floor, start_limit, shape)
    terms = terms_of(ask, bid, ask.floor)
    with world.chain.put_back():
        if not can_open(ask, bid, terms):
            with pytest.raises(CallReverted, match="BudgetTooSmall"):
                world.open(world.match(ask, bid))
            return
        opened = world.open(world.match(ask, bid)).opened
        expected = (terms.rate, terms.funded_seconds, terms.start_seconds, terms.lock)
        assert (opened.rate, opened.funded, opened.start_seconds, opened.locked) == expected
        assert terms.funded_seconds == terms.paid_seconds + start_limit
        assert opened.locked <= bid.budget


@LIVES
@given(
    floor=prices,
    start_limit=start_limits,
    shape=shapes,
    uses=st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 1 << 21), st.integers(0, 2 * 10**6)),
        min_size=1,
        max_size=4,
    ),
)
def test_payments_equal_whatever_is_settled(
    world: World,
    floor: Prices,
    start_limit: int,
    shape: dict[str, int],
    uses: list[tuple[int, int, int]],
) -> None:
    ask, bid = orders(world, floor, start_limit, shape | {"budget": 10**6 * TOKEN})
    assume(can_open(ask, bid, terms_of(ask, bid, ask.floor)))
    with world.chain.put_back():
        live(world, world.match(ask, bid), uses)


def live(world: World, match: Match, uses: list[tuple[int, int, int]]) -> None:
    """Settle each use in turn, close at the greatest, and compare after every step."""
    lease = world.open(match)
    prices, bid = match.prices, match.bid
    paid_ms = terms_of(match.ask, bid, prices).paid_seconds * 1_000
    metered = bid.egress_mib > 0 or bid.units > 0
    world.chain.warp(1_001)
    ms = egress = count = paid = fees = 0
    start = world.escrow.balance_of(world.provider.address)
    for use_ms, use_egress, use_units in uses:
        if metered:
            world.settle(lease.metered(use_ms, use_egress, use_units))
            egress = max(egress, min(use_egress, bid.egress_mib))
            count = max(count, min(use_units, bid.units))
        else:
            world.settle(lease.voucher(use_ms))
        ms = max(ms, min(use_ms, paid_ms))
        time = units.cost(lease.opened.rate, ms)
        counted = units.counted_cost(prices.egress_gib, prices.unit, egress, count)
        paid = time + counted
        fees = sum(units.fee_of(part, SETTINGS.fee_bps) for part in (time, counted))
        assert world.escrow.balance_of(world.provider.address) == start + paid - fees
        assert world.escrow.fees_of(world.provider.address) == fees
        assert lease.view().released == paid
    world.send(world.relayer, lease.close(ms, egress, count))
    view = lease.view()
    assert (view.released, view.locked) == (paid, 0)
    assert lease.opened.locked >= paid
    state = assert_folded(world, lease)
    folded = state.leases[lease.number]
    assert folded.refunded == lease.opened.locked - paid
    assert ref_of(folded) == lease.ref
    assert state.fees == {world.provider.address: fees}


def assert_folded(world: World, lease: Lease) -> EscrowState:
    """Check that lease, balances, capacity and holdings are what the events add up to."""
    state = world.state()
    assert expected_view(state.leases[lease.number], state.params) == lease.view()
    assert world.token.balance_of(world.escrow.address) == state.held()
    for account, amount in state.balances.items():
        assert world.escrow.balance_of(account) == amount
    for node, milli in state.capacity.items():
        assert world.escrow.capacity_used(*node) == milli
    return state


@LIVES
@given(
    floor=prices,
    start_limit=start_limits,
    shape=shapes,
    more=st.integers(0, 600),
    elapsed=st.integers(0, 900) | st.integers(0, 90_000),
    mark=st.sampled_from(("never", "with the stop", "after it", "with the close")),
    by=st.sampled_from(("buyer", "witness", "meter", "free")),
)
def test_a_stop_cuts_what_the_contract_cuts(
    world: World,
    floor: Prices,
    start_limit: int,
    shape: dict[str, int],
    more: int,
    elapsed: int,
    mark: str,
    by: str,
) -> None:
    """The start seconds first, whoever stops the lease, before or after its end."""
    ask, bid = orders(world, floor, start_limit, shape | {"budget": 10**6 * TOKEN})
    with world.chain.put_back():
        lease = world.open(world.match(ask, bid))
        if 0 < more <= ask.max_seconds - bid.max_seconds:
            world.send(world.buyer, world.escrow.calls.top_up(lease.match.opened, more))
        before = lease.view()
        world.chain.warp(elapsed)
        if by == "free":
            world.send(world.stranger, world.escrow.calls.free([lease.ref]))
        else:
            again = mark == "with the stop" and by != "meter"
            world.send(world.relayer, lease.stop(getattr(world, by), again))
        after, now = lease.view(), world.client.timestamp()
        assert_folded(world, lease)
        if by != "free" or before.end <= now:
            cut = max(0, before.end - now)
            paid = before.funded - before.start_seconds - max(0, cut - before.start_seconds)
            assert after.end == before.end - cut
            assert after.start_seconds == max(0, before.start_seconds - cut)
            assert after.funded - after.start_seconds == paid
            assert before.locked - after.locked == units.time_lock(
                before.rate, before.funded - before.start_seconds
            ) - units.time_lock(before.rate, paid)
        if mark == "after it" and after.status is LeaseStatus.STOPPED:
            world.send(world.buyer, world.escrow.calls.stop(lease.ref, again=True))
            assert_folded(world, lease)
        world.send(world.relayer, lease.close(0, again=mark == "with the close"))
        state = assert_folded(world, lease)
        assert state.capacity[world.provider.address, ask.node] == 0


def test_a_limit_below_the_rate_is_refused_at_its_edge(world: World) -> None:
    ask = world.ask()
    rate = terms_of(ask, world.bid(), ask.floor).rate
    low = world.bid(limits=(TierLimit(TIER, rate - 1),))
    with pytest.raises(CallReverted, match="PriceAboveLimit"):
        world.open(world.match(ask, low))
    exact = world.bid(limits=(TierLimit(TIER, rate),))
    assert world.open(world.match(world.ask(), exact)).opened.rate == rate
