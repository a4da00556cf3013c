"""Every call that moves funds: from the wrong caller, a second time, and out of gas half-way."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from settlement.chain.abi import abi
from settlement.chain.calls import SettlementEntry, open_batch_gas
from settlement.errors import CallReverted
from settlement.leases import EscrowState
from settlement.orders import Cancel, Numbered, Prices
from settlement.signing import LocalSigner, sign
from tests.escrow_world import FAR, SETTINGS, TOKEN, Lease, World, key

NOBODY = "0x" + "77" * 20
SIGNED_BY_NOBODY = bytes(64) + b"\x1b"


def books(world: World) -> tuple[EscrowState, int]:
    """Everything that the escrow stores, and the tokens that it holds."""
    return world.state(), world.token.balance_of(world.escrow.address)


def refused(world: World, sender: LocalSigner, data: bytes) -> CallReverted:
    """Send a call that must fail and change nothing; return its error."""
    before = books(world)
    with pytest.raises(CallReverted) as caught:
        world.send(sender, data)
    assert books(world) == before
    return caught.value


@dataclass(frozen=True)
class Act:
    """A call that succeeds in the world that it was made for."""

    sender: LocalSigner
    data: bytes
    gas: int | None = None


def running(world: World, seconds: int = 100, **changes: Any) -> Lease:
    """A lease that has run for some seconds; `changes` are its bid's."""
    lease = world.open(world.match(bid=world.bid(**changes)))
    world.chain.warp(seconds)
    return lease


def deposit(world: World) -> Act:
    amount = 7 * TOKEN
    world.give(amount)
    approve = world.token.approve(world.escrow.address, amount)
    world.send(world.buyer, approve, world.token.address)
    return Act(world.buyer, world.escrow.calls.deposit(amount))


def deposit_with_permit(world: World) -> Act:
    amount = 7 * TOKEN
    world.give(amount)
    signature = world.permit(amount)
    return Act(world.buyer, world.escrow.calls.deposit_with_permit(amount, FAR, signature))


def collect_fees(world: World) -> Act:
    lease = running(world)
    world.send(world.relayer, lease.close(50_000))
    return Act(world.stranger, world.escrow.calls.collect_fees([world.provider.address]))


def settle_metered(world: World) -> Act:
    lease = world.open(world.match(bid=world.metered_bid()))
    world.chain.warp(100)
    data = world.escrow.calls.settle([lease.metered(50_000, 5, 6)], metered=True)
    return Act(world.relayer, data)


def refund(world: World) -> Act:
    lease = running(world, 60 + SETTINGS.settle_window + 1, max_seconds=60)
    return Act(world.stranger, world.escrow.calls.refund(lease.ref))


def open_all(world: World) -> Act:
    bid = world.bid(nodes=2)
    seats = [world.match(world.ask(node=31 + i), bid, seat=i) for i in range(2)]
    return Act(world.relayer, world.escrow.calls.open_all(seats))


def top_up(world: World) -> Act:
    lease = running(world, max_seconds=86_000)
    data = world.escrow.calls.top_up(lease.match.opened, 400)  # the ask's longest time
    return Act(world.buyer, data)


def free(world: World) -> Act:
    lease = running(world, 61, max_seconds=60)
    return Act(world.stranger, world.escrow.calls.free([lease.ref]))


def mark(world: World) -> Act:
    lease = running(world)
    world.send(world.provider, world.escrow.calls.stop(lease.ref))
    return Act(world.buyer, world.escrow.calls.stop(lease.ref, again=True))


def deposit_for(world: World) -> Act:
    act = deposit(world)
    return replace(act, data=world.escrow.calls.deposit_for(world.stranger.address, 7 * TOKEN))


def multicall(world: World) -> Act:
    calls, buyer = world.escrow.calls, world.buyer.address
    everything = world.escrow.balance_of(buyer)
    stop = calls.stop(running(world).ref)
    rest = world.escrow.balance_of(buyer)
    assert rest < everything
    return Act(world.buyer, calls.multicall([stop, calls.withdraw(NOBODY, rest)]))


def create_purse(world: World) -> Act:
    calls, operator = world.escrow.calls, world.stranger.address
    return Act(world.buyer, calls.create_purse(operator, 5, FAR, TOKEN))


def fund_purse(world: World) -> Act:
    purse = world.purse(world.stranger, 0)
    everything = world.escrow.balance_of(world.buyer.address)
    return Act(world.buyer, world.escrow.calls.fund_purse(purse, everything))


def sweep_purse(world: World) -> Act:
    purse = world.purse(world.stranger, TOKEN)
    return Act(world.buyer, world.escrow.calls.sweep_purse(purse, TOKEN))


def expire_purse(world: World) -> Act:
    purse = world.purse(world.stranger, TOKEN)
    return Act(world.buyer, world.escrow.calls.expire_purse(purse, FAR - 1))


def withdraw(world: World) -> Act:
    everything = world.escrow.balance_of(world.buyer.address)
    return Act(world.buyer, world.escrow.calls.withdraw(NOBODY, everything))


# Each call, and the error when it is repeated. None: the repetition succeeds but moves nothing.
ACTS: dict[str, tuple[Callable[[World], Act], str | None]] = {
    "deposit": (deposit, "ERC20InsufficientAllowance"),
    "deposit_with_permit": (deposit_with_permit, "PermitFailed"),
    "withdraw": (withdraw, "InsufficientBalance"),
    "collect_fees": (collect_fees, None),
    "open": (lambda w: Act(w.relayer, w.escrow.calls.open(w.match())), "LeaseExists"),
    "open_batch": (
        lambda w: Act(w.relayer, w.escrow.calls.open_batch([w.match()]), open_batch_gas(1)), None
    ),
    "open_all": (open_all, "LeaseExists"),
    "settle": (lambda w: Act(w.relayer, w.escrow.calls.settle([running(w).voucher(50_000)])), None),
    "settle_metered": (settle_metered, None),
    "stop": (lambda w: Act(w.buyer, w.escrow.calls.stop(running(w).ref)), "LeaseNotActive"),
    "stop_by_signature": (lambda w: Act(w.stranger, running(w).stop(w.witness)), "LeaseNotActive"),
    "close": (lambda w: Act(w.stranger, running(w).close(50_000)), "LeaseNotOpen"),
    "refund": (refund, "LeaseNotOpen"),
    "cancel": (lambda w: Act(w.stranger, w.cancel(w.bid().salt)), None),
    "top_up": (top_up, "DurationTooLong"),
    "top_up_by_signature": (lambda w: Act(w.stranger, running(w).top_up(60, fee=5)), "CallUsed"),
    "withdraw_by_signature": (
        lambda w: Act(w.stranger, w.withdrawal(TOKEN, NOBODY, fee=5)), "CallUsed"
    ),
    "free": (free, None),
    "mark": (mark, None),
    "deposit_for": (deposit_for, "ERC20InsufficientAllowance"),
    "multicall": (multicall, "LeaseNotActive"),
    "create_purse": (create_purse, "PurseExists"),
    "fund_purse": (fund_purse, "InsufficientBalance"),
    "sweep_purse": (sweep_purse, "InsufficientBalance"),
    "expire_purse": (expire_purse, "ExpiryNotEarlier"),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTS)
def test_a_second_call_moves_nothing(world: World, name: str) -> None:
    prepare, again = ACTS[name]
    act = prepare(world)
    before = books(world)
    world.send(act.sender, act.data, gas=act.gas)
    after = books(world)
    assert after != before
    if again is None:
        world.send(act.sender, act.data, gas=act.gas)
        assert books(world) == after
    else:
        assert refused(world, act.sender, act.data).name == again


@pytest.mark.parametrize("name", ACTS)
def test_a_call_that_runs_out_of_gas_moves_nothing_and_works_later(world: World, name: str) -> None:
    act = ACTS[name][0](world)
    before = books(world)
    needed = world.client.estimate_gas(world.escrow.address, act.data, act.sender.address)
    floor = 21_000 + sum(40 if byte else 10 for byte in act.data)  # EIP-7623
    for percent in (60, 80, 95):
        gas = max(floor, needed * percent // 100)
        tx_hash = world.broadcast(act.sender, act.data, gas)
        receipt = world.client.wait(tx_hash)
        assert not receipt.succeeded or name == "open_batch"  # it skips items instead
        assert books(world) == before
    world.send(act.sender, act.data, gas=act.gas)
    assert books(world) != before


def test_deposit_takes_only_from_the_sender(world: World) -> None:
    act = deposit(world)
    assert refused(world, world.stranger, act.data).name == "ERC20InsufficientAllowance"


def test_a_permit_is_the_senders_own(world: World) -> None:
    act = deposit_with_permit(world)
    error = refused(world, world.stranger, act.data)
    assert (error.name, error.arguments) == ("PermitFailed", (7 * TOKEN, 0))


def test_a_permit_that_was_front_run_still_deposits(world: World) -> None:
    act = deposit_with_permit(world)
    signature = world.permit(7 * TOKEN)
    used = abi("ComputeToken").call(
        "permit", world.buyer.address, world.escrow.address, 7 * TOKEN, FAR,
        signature[64], signature[:32], signature[32:64],
    )  # fmt: skip
    world.send(world.stranger, used, world.token.address)
    before = world.escrow.balance_of(world.buyer.address)
    world.send(act.sender, act.data)
    assert world.escrow.balance_of(world.buyer.address) == before + 7 * TOKEN


def test_withdraw_takes_only_from_the_senders_balance(world: World) -> None:
    error = refused(world, world.stranger, world.escrow.calls.withdraw(NOBODY, 1))
    assert (error.name, error.arguments) == ("InsufficientBalance", (0, 1))


def test_open_is_for_the_named_opener(world: World) -> None:
    ask = world.ask(opener=world.relayer.address)
    data = world.escrow.calls.open(world.match(ask))
    error = refused(world, world.stranger, data)
    assert error.name == "NotOpener"
    expected, found = (str(a).lower() for a in error.arguments)
    assert (expected, found) == (world.relayer.address.lower(), world.stranger.address.lower())
    world.send(world.relayer, data)


def test_a_bid_that_names_its_opener_is_not_opened_again_by_a_stranger(world: World) -> None:
    lease = world.open(world.match(world.ask(), world.bid(opener=world.relayer.address)))
    world.chain.warp(2)
    world.send(world.relayer, lease.close(1_000, again=True))
    free = world.escrow.balance_of(world.buyer.address)
    again = world.match(world.ask(node=2), lease.match.bid, previous=lease.previous)
    error = refused(world, world.stranger, world.escrow.calls.open(again))
    assert error.name == "NotOpener"
    assert world.escrow.balance_of(world.buyer.address) == free


@pytest.mark.parametrize("order", ["ask", "bid"])
def test_open_needs_both_signatures(world: World, order: str) -> None:
    match = world.match()
    signature = sign(getattr(match, order), world.escrow.domain(), world.stranger)
    forged: dict[str, Any] = {f"{order}_signature": signature}
    data = world.escrow.calls.open(replace(match, **forged))
    assert refused(world, world.relayer, data).name == "InvalidSignature"


def test_open_again_needs_the_first_lease_marked(world: World) -> None:
    lease = running(world)
    bid = lease.match.bid
    follower = world.escrow.calls.open(world.match(world.ask(node=2), bid, previous=lease.previous))
    assert refused(world, world.relayer, follower).name == "NotMarkedAgain"
    world.send(world.provider, world.escrow.calls.stop(lease.ref))
    assert refused(world, world.relayer, follower).name == "NotMarkedAgain"
    fresh = world.match(world.ask(node=2), bid)
    assert refused(world, world.relayer, world.escrow.calls.open(fresh)).name == "NonceUsed"
    world.send(world.buyer, world.escrow.calls.stop(lease.ref, again=True))
    world.send(world.relayer, follower)


def test_a_follower_names_the_prices_that_its_predecessor_paid(world: World) -> None:
    lease = running(world)
    world.send(world.buyer, world.escrow.calls.stop(lease.ref, again=True))
    other = lease.previous._replace(prices_hash=Prices(1).struct_hash())
    follower = world.match(world.ask(node=2), lease.match.bid, previous=other)
    assert refused(world, world.relayer, world.escrow.calls.open(follower)).name == "UnknownLease"


@pytest.mark.parametrize("signer", ["meter", "provider", "buyer", "stranger"])
def test_a_voucher_counts_only_if_the_witness_signed_it(world: World, signer: str) -> None:
    lease = running(world)
    before = books(world)
    voucher = lease.voucher(50_000, getattr(world, signer))
    paid, skipped = world.escrow.simulate_settle(
        [voucher, lease.voucher(40_000)], False, world.relayer.address, "pending"
    )
    assert (paid, skipped) == ([lease.voucher(40_000)], [voucher])
    world.settle(voucher)
    assert books(world) == before


def test_a_voucher_of_another_lease_chain_or_escrow_counts_nowhere(world: World) -> None:
    lease, other = running(world), running(world)
    domain, voucher = world.escrow.domain(), lease.voucher(50_000)
    usage: Any = voucher.voucher
    changes = ({"lease_no": other.number}, {"ms": 50_001}, {"buyer": NOBODY}, {"provider": NOBODY})
    domains = (replace(domain, chain_id=1), replace(domain, verifying_contract=NOBODY))
    elsewhere = [SettlementEntry(replace(usage, **change), voucher.signature) for change in changes]
    elsewhere += [SettlementEntry(usage, sign(usage, wrong, world.witness)) for wrong in domains]
    paid, skipped = world.escrow.simulate_settle(elsewhere, False, world.relayer.address, "pending")
    assert (paid, len(skipped)) == ([], len(elsewhere))


@pytest.mark.parametrize("caller", ["buyer", "provider"])
def test_stop_is_for_the_parties(world: World, caller: str) -> None:
    lease = running(world)
    data = world.escrow.calls.stop(lease.ref)
    assert refused(world, world.stranger, data).name == "NotAParty"
    assert refused(world, world.relayer, data).name == "NotAParty"
    world.send(getattr(world, caller), data)


def test_only_the_buyers_side_lets_a_seat_open_again(world: World) -> None:
    lease = running(world)
    data = world.escrow.calls.stop(lease.ref, again=True)
    assert refused(world, world.provider, data).name == "NotAParty"
    by_meter = lease.stop(world.meter, again=True)
    assert refused(world, world.relayer, by_meter).name == "InvalidSignature"
    world.send(world.buyer, data)
    assert lease.view().again


def test_an_order_fits_only_with_its_start_limit_notice_and_flags(world: World) -> None:
    def why(ask: dict[str, Any], bid: dict[str, Any]) -> str:
        match = world.match(world.ask(**ask), world.bid(**bid))
        return refused(world, world.relayer, world.escrow.calls.open(match)).name

    slow, notice = {"start_limit_seconds": 61}, {"flags": 5, "notice_seconds": 29}
    assert why(slow, {"max_start_seconds": 60}) == "StartTooLong"
    assert why(notice, {"flags": 1, "min_notice_seconds": 29}) == "FlagNotAccepted"
    assert why(notice, {"flags": 5, "min_notice_seconds": 30}) == "NoticeTooShort"
    assert why({"flags": 1}, {"gpu_milli": 0, "flags": 3}) == "FlagNotAccepted"
    assert why({"flags": 3}, {"gpu_milli": 0, "flags": 1}) == "FlagNotAccepted"
    bid = world.bid(max_start_seconds=61, flags=5, min_notice_seconds=29)
    world.open(world.match(world.ask(**slow, **notice), bid))


def test_cancel_is_for_the_account_or_by_its_signature(world: World) -> None:
    salt, calls = world.bid().salt, world.escrow.calls
    own = calls.cancel(Cancel(world.buyer.address, Numbered.ORDERS, salt, False))
    assert refused(world, world.stranger, own).name == "InvalidSignature"
    foreign = calls.cancel(
        Cancel(world.buyer.address, Numbered.ORDERS, salt, True), SIGNED_BY_NOBODY
    )
    assert refused(world, world.stranger, foreign).name == "InvalidSignature"
    world.send(world.buyer, own)
    assert world.escrow.salt_state(world.buyer.address, salt).cancelled
    assert not world.escrow.salt_state(world.buyer.address, salt, Numbered.CALLS).cancelled


def test_top_up_is_for_the_buyer_and_within_the_budget(world: World) -> None:
    lease = running(world, budget=3 * TOKEN)
    opened, calls = lease.match.opened, world.escrow.calls
    data = calls.top_up(opened, 60)
    for other in (world.provider, world.stranger, world.relayer):
        assert refused(world, other, data).name == "NotBuyer"
    more = calls.top_up(opened, 3_600)
    assert refused(world, world.buyer, more).name == "BudgetTooSmall"
    for wrong in (
        replace(opened, bid=replace(opened.bid, budget=99 * TOKEN)),
        replace(opened, prices=Prices(1)),
        replace(opened, seat=1),
    ):
        other = calls.top_up(wrong, 60)
        assert refused(world, world.buyer, other).name == "LeaseNotActive"
    world.send(world.buyer, data)


@pytest.mark.parametrize("signer", ["provider", "stranger"])
def test_stop_by_signature_is_for_buyer_witness_and_meter(world: World, signer: str) -> None:
    lease = running(world)
    error = refused(world, world.relayer, lease.stop(getattr(world, signer)))
    assert error.name == "InvalidSignature"
    for able in (world.meter, world.buyer, world.witness):
        world.send(world.relayer, running(world).stop(able))


def test_close_needs_both_meter_and_witness(world: World) -> None:
    lease, other = running(world), key("other")
    by_witness_twice = lease.close(50_000, meter=world.witness)
    assert refused(world, world.relayer, by_witness_twice).name == "NotMeter"
    by_meter_twice = lease.close(50_000, witness=world.meter)
    assert refused(world, world.relayer, by_meter_twice).name == "LeaseNotOpen"
    assert refused(world, world.buyer, lease.close(0, meter=other)).name == "NotMeter"
    assert refused(world, world.provider, lease.close(0, witness=other)).name == "LeaseNotOpen"


def test_close_is_refused_below_what_was_settled_and_ahead_of_the_clock(world: World) -> None:
    lease = running(world)
    world.settle(lease.voucher(50_000))
    assert refused(world, world.relayer, lease.close(49_999)).name == "UsageBelowSettled"
    assert refused(world, world.relayer, lease.close(10**9)).name == "UsageAheadOfTime"
    world.send(world.relayer, lease.close(50_000))


def test_refund_waits_for_the_settle_window(world: World) -> None:
    lease = running(world, 60, max_seconds=60)
    data = world.escrow.calls.refund(lease.ref)
    assert refused(world, world.buyer, data).name == "RefundTooEarly"
    world.chain.warp(SETTINGS.settle_window + 1)
    world.send(world.stranger, data)
