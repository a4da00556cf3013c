"""Withdrawals and top-ups that accounts signed: what the relayer sends, and what it refuses."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from marketplace.errors import (
    CallExpired,
    CallRefused,
    CallUsed,
    Conflict,
    InsufficientBalance,
    InvalidInput,
    InvalidSignature,
    MarketError,
    NotFound,
    NotRelayed,
    PurseExpired,
    RelayFee,
)
from marketplace.limits import RELAY_PAUSE_SECONDS, RELAY_SECONDS, RELAY_TRIES
from marketplace.services.common import Principal
from marketplace.wire.orders import CallState, RelayedCall, SignedTopUp, SignedWithdrawal
from settlement.consent import Purse
from settlement.eip712 import ZERO_ADDRESS, checksum
from settlement.errors import CallReverted, ChainUnavailable
from settlement.orders import TopUp, Withdraw
from settlement.ports import IntentState
from settlement.signing import LocalSigner
from tests.market_world import TOKEN, World, key_of, new_world

RELAYER = checksum("0x" + "77" * 20)
FEE = TOKEN // 100
PURSE = checksum("0x" + "b0" * 20)
OWNER, OPERATOR = key_of("purse owner"), key_of("purse operator")


@pytest.fixture
def world() -> Iterator[World]:
    """A market whose relayer sends calls for a fee; the provider has ten tokens."""
    with new_world(opener=RELAYER, relay_fee=FEE) as made:
        made.fund(10, made.provider)
        yield made


def withdrawal(world: World, **changes: Any) -> Withdraw:
    """The provider's withdrawal of two tokens to itself."""
    account = world.provider.address
    deadline = world.clock() // 1000 + RELAY_SECONDS
    usual = Withdraw(account, account, 2 * TOKEN, 0, deadline, RELAYER, FEE)
    return replace(usual, **changes)


def send(
    world: World,
    call: Withdraw | TopUp,
    signer: LocalSigner | None = None,
    caller: Principal | None = None,
) -> RelayedCall:
    """Sign a call and hand it in."""
    relays = world.catalog.relays
    signer = signer or world.provider
    who = caller or world.caller(signer)
    if isinstance(call, Withdraw):
        relay = relays.withdrawal(who, world.signed(SignedWithdrawal, signer, call=call))
    else:
        relay = relays.top_up(who, world.signed(SignedTopUp, signer, call=call))
    with world.database.write() as store:
        return relays.submit(store, relay)


def look(world: World, salt: int = 0, who: LocalSigner | None = None) -> RelayedCall:
    with world.database.read() as store:
        return world.catalog.relays.get(store, world.caller(who or world.provider), salt)


def intents(world: World) -> int:
    """How many calls wait for the relayer."""
    return len(world.chain.outbox.pending(100))


def test_a_signed_withdrawal_is_sent_for_the_fee(world: World) -> None:
    made = send(world, withdrawal(world))
    assert (made.id, made.call, made.state) == ("call_0", "withdraw", CallState.PENDING)
    world.chain.mine()
    found = look(world)
    assert (found.state, found.error) == (CallState.FINAL, None)
    assert found.tx_hash is not None
    assert world.chain.balances[world.provider.address] == 8 * TOKEN


def test_the_same_call_again_is_sent_once_and_told_how_far_it_is(world: World) -> None:
    call = withdrawal(world)
    first = send(world, call)
    assert send(world, call) == first
    assert intents(world) == 1
    world.chain.mine()
    world.clock.advance(2 * RELAY_SECONDS)  # it is done: its deadline no longer matters
    assert send(world, call).state is CallState.FINAL
    assert intents(world) == 0


def test_a_call_that_the_relayer_gave_up_is_reported_and_its_number_free(world: World) -> None:
    call = withdrawal(world)
    send(world, call)
    key = f"call:{call.account}:0"
    world.chain.refusals[key] = "InsufficientBalance(0x, 2, 1)"
    world.chain.mine()
    again = send(world, call)
    assert (again.state, again.error) == (CallState.FAILED, "InsufficientBalance(0x, 2, 1)")
    assert intents(world) == 0
    send(world, replace(call, amount=TOKEN))
    world.chain.mine()
    assert look(world).state is CallState.FINAL
    assert world.chain.balances[call.account] == 9 * TOKEN


REFUSALS: dict[str, tuple[type[MarketError], str, dict[str, Any]]] = {
    "fee above what moves": (RelayFee, "below the amount", {"amount": FEE}),
    "fee below the market's": (RelayFee, "at least 0.01 CMP", {"fee": FEE - 1}),
    "passed": (CallExpired, "not -1 s", {"deadline": -1}),
    "about to pass": (CallExpired, "must lie 60 to 660 s ahead", {"deadline": 59}),
    "far ahead": (CallExpired, "not 661 s", {"deadline": 661}),
    "more than there is": (InsufficientBalance, "below what the call", {"amount": 11 * TOKEN}),
    "anyone may send it": (InvalidInput, "another could send it", {"relayer": ZERO_ADDRESS}),
    "another relayer": (InvalidInput, "/call/relayer", {"relayer": PURSE}),
    "another account": (InvalidInput, "must be the account of the API key", {"account": PURSE}),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_call_that_does_not_suit_is_refused_and_nothing_is_put_down(
    world: World, name: str
) -> None:
    error, why, changes = REFUSALS[name]
    if "deadline" in changes:
        changes = {"deadline": world.clock() // 1000 + changes["deadline"]}
    with pytest.raises(error, match=why):
        send(world, withdrawal(world, **changes))
    assert intents(world) == 0


def test_a_call_signed_by_another_is_refused(world: World) -> None:
    with pytest.raises(InvalidSignature, match=world.provider.address):
        send(world, withdrawal(world), world.stranger, world.caller(world.provider))
    assert intents(world) == 0


def test_a_number_is_used_once(world: World) -> None:
    call = withdrawal(world)
    send(world, call)
    with pytest.raises(CallUsed, match="belongs to another call"):
        send(world, replace(call, amount=TOKEN))
    world.chain.mine()
    with pytest.raises(CallUsed, match="was sent before"):
        send(world, replace(call, amount=TOKEN))
    assert intents(world) == 0


def test_calls_of_an_account_go_one_by_one(world: World) -> None:
    """Two that each take all there is would both pass the check, and one fail on the chain."""
    send(world, withdrawal(world, amount=10 * TOKEN))
    with pytest.raises(Conflict, match="call_0 of this account is on its way"):
        send(world, withdrawal(world, amount=10 * TOKEN, salt=1))
    world.chain.mine()
    with pytest.raises(InsufficientBalance):
        send(world, withdrawal(world, amount=TOKEN, salt=1))


@pytest.mark.parametrize(
    ("said", "error", "why"),
    [
        (CallReverted("LeaseEnded", (1, 2)), CallRefused, r"LeaseEnded\(1, 2\)"),
        (CallReverted("InsufficientBalance", ("0x", 5, 3)), InsufficientBalance, "free escrow"),
        (CallReverted("CallUsed", ("0x", 0)), CallUsed, "was sent before"),
        (CallReverted("PurseExpired", (1, 2)), PurseExpired, "no lease is extended"),
    ],
)
def test_what_the_chain_would_refuse_is_not_sent(
    world: World, said: CallReverted, error: type[MarketError], why: str
) -> None:
    world.chain.refused = said
    with pytest.raises(error, match=why):
        send(world, withdrawal(world))
    assert intents(world) == 0


def test_while_the_chain_is_away_nothing_is_refused_for_good(world: World) -> None:
    world.chain.down = ChainUnavailable("away")
    with pytest.raises(ChainUnavailable):
        send(world, withdrawal(world))
    world.chain.down = None
    assert send(world, withdrawal(world)).state is CallState.PENDING


def test_a_market_without_a_fee_sends_nothing_for_others() -> None:
    with new_world(opener=RELAYER, relay_fee=None) as world:
        world.fund(10, world.provider)
        with pytest.raises(NotRelayed):
            send(world, withdrawal(world))


def confirm(world: World, key: str) -> int:
    """The relayer's transaction of a call is mined; nobody has said how it went. Returns its
    intent's id."""
    with world.database.read() as store:
        intent = store.intent(key)
    assert intent is not None
    outbox = world.chain.outbox
    outbox.mark_signed(intent.id, RELAYER, 99, b"raw", "0x" + "1" * 64)
    outbox.mark_sent(intent.id)
    outbox.mark_confirmed(intent.id, "0x" + "1" * 64, 1, "0x" + "2" * 64)
    return intent.id


def fail_on_chain(world: World, key: str) -> None:
    """The relayer's transaction of a call is mined, and fails."""
    world.chain.outbox.mark_dead(confirm(world, key), "CallUsed(0x, 0)")


def test_an_account_whose_call_cost_the_relayer_gas_has_to_wait(world: World) -> None:
    world.clock.ms = int(time.time() * 1000)  # which the outbox goes by
    call = withdrawal(world)
    send(world, call)
    fail_on_chain(world, f"call:{call.account}:0")
    assert look(world).state is CallState.FAILED
    with pytest.raises(CallRefused, match="the relayer paid for it"):
        send(world, withdrawal(world, salt=1))
    world.clock.advance(RELAY_PAUSE_SECONDS + 1)
    assert send(world, withdrawal(world, salt=1)).state is CallState.PENDING


def test_a_number_whose_calls_fail_over_and_over_is_given_up(world: World) -> None:
    for attempt in range(RELAY_TRIES):
        call = withdrawal(world, amount=TOKEN + attempt)
        key = f"call:{call.account}:0" + (f"/{attempt + 1}" if attempt else "")
        send(world, call)
        world.chain.refusals[key] = "Paused()"
        world.chain.mine()
    with pytest.raises(CallRefused, match=r"failed 4 times, last with Paused"):
        send(world, withdrawal(world))


def test_a_call_is_its_accounts_own_to_look_at(world: World) -> None:
    send(world, withdrawal(world))
    with pytest.raises(NotFound):
        look(world, who=world.stranger)
    with pytest.raises(NotFound):
        look(world, salt=1)


# Top-ups


def top_up(world: World, lease_id: str, **changes: Any) -> TopUp:
    lease = world.lease(lease_id)
    names = (lease.buyer, lease.provider, lease.lease_bytes)
    deadline = world.clock() // 1000 + RELAY_SECONDS
    return replace(TopUp(*names, 60, 0, deadline, RELAYER, FEE), **changes)


def test_a_signed_top_up_is_sent_for_the_fee_on_top(world: World) -> None:
    _, lease_id = world.start()
    before = world.chain.balances[world.buyer.address]
    made = send(world, top_up(world, lease_id), world.buyer)
    assert (made.call, made.state) == ("top_up", CallState.PENDING)
    world.chain.mine()
    assert world.chain.balances[world.buyer.address] == before - FEE


def test_a_top_up_of_no_or_of_an_ended_lease_is_refused(world: World) -> None:
    _, lease_id = world.start()
    with pytest.raises(NotFound):
        send(world, top_up(world, lease_id, lease_no=bytes(16)), world.buyer)
    with pytest.raises(NotFound):
        send(world, top_up(world, lease_id, provider=PURSE), world.buyer)
    world.halt(lease_id)
    with pytest.raises(Conflict, match="only an active one"):
        send(world, top_up(world, lease_id), world.buyer)
    assert intents(world) == 0


@pytest.fixture
def purse_lease(world: World) -> str:
    """An open lease of a purse with two tokens, whose terms last an hour."""
    world.ask()
    expiry = world.clock() // 1000 + 3_600
    world.chain.purses[PURSE] = Purse(OWNER.address, expiry, OPERATOR.address)
    world.chain.balances[PURSE] = 2 * TOKEN
    caller = Principal(PURSE, ("buyer",), None)
    order = world.catalog.jobs.check(caller, world.sign_order(*world.order(0, PURSE), OPERATOR))
    with world.database.write() as store:
        job_id = world.catalog.jobs.submit(store, caller, order).id
    world.match()
    world.chain.mine()
    return world.job(job_id).lease_id or ""


BUYS = Principal(PURSE, ("buyer",), None)


def test_a_purse_pays_a_relay_fee_only_if_its_owner_signed(world: World, purse_lease: str) -> None:
    call = top_up(world, purse_lease)
    with pytest.raises(InvalidSignature, match="not its operator"):
        send(world, call, OPERATOR, BUYS)
    assert send(world, call, OWNER, BUYS).state is CallState.PENDING


def test_an_operator_tops_up_where_no_fee_is_asked(world: World, purse_lease: str) -> None:
    call = top_up(world, purse_lease, fee=0)
    with pytest.raises(RelayFee):
        send(world, call, OPERATOR, BUYS)
    world.catalog.relays = replace(
        world.catalog.relays, market=replace(world.catalog.market, relay_fee=0)
    )
    with pytest.raises(InvalidSignature, match="not somebody else"):
        send(world, call, world.stranger, BUYS)
    world.clock.advance(3_601)
    with pytest.raises(PurseExpired):
        send(world, top_up(world, purse_lease, fee=0), OPERATOR, BUYS)
    world.clock.advance(-3_601)
    assert send(world, call, OPERATOR, BUYS).state is CallState.PENDING


@pytest.mark.parametrize("signer", [OPERATOR, OWNER])
def test_nobody_signs_a_withdrawal_for_a_purse(
    world: World, purse_lease: str, signer: LocalSigner
) -> None:
    call = withdrawal(world, account=PURSE, to=signer.address, amount=TOKEN)
    with pytest.raises(InvalidSignature, match="nobody signs withdrawals for it"):
        send(world, call, signer, BUYS)
    assert world.chain.outbox.recent(1)[0].state is IntentState.FINAL  # the lease's opening


# Who makes the relayer pay for what fails


def test_the_next_call_waits_until_it_is_sure_how_the_last_one_went(world: World) -> None:
    """It may have failed in its block, and cost gas; a failure in each block would be too many."""
    call = withdrawal(world)
    send(world, call)
    confirm(world, f"call:{call.account}:0")
    with pytest.raises(Conflict, match="on its way"):
        send(world, withdrawal(world, salt=1))
    assert intents(world) == 0


def test_what_only_a_contract_signed_is_not_sent(world: World) -> None:
    """It can say yes to whoever asks, and burn what gas there is when the relayer pays."""
    wallet, owner = checksum("0x" + "c7" * 20), key_of("wallet owner")
    world.chain.wallets[wallet] = owner.address
    world.chain.balances[wallet] = 5 * TOKEN
    caller = Principal(wallet, ("provider",), None)
    with pytest.raises(CallRefused, match="ERC-1271"):
        send(world, withdrawal(world, account=wallet), owner, caller)
    with pytest.raises(InvalidSignature, match=world.stranger.address):
        send(world, withdrawal(world, account=wallet), world.stranger, caller)
    assert intents(world) == 0


def test_a_top_up_that_a_purses_contract_owner_signed_is_not_sent(
    world: World, purse_lease: str
) -> None:
    wallet, owner = checksum("0x" + "c7" * 20), key_of("wallet owner")
    world.chain.wallets[wallet] = owner.address
    purse = world.chain.purses[PURSE]
    world.chain.purses[PURSE] = replace(purse, owner=wallet)
    with pytest.raises(CallRefused, match="ERC-1271"):
        send(world, top_up(world, purse_lease), owner, BUYS)
    assert world.chain.outbox.recent(1)[0].state is IntentState.FINAL  # the lease's opening
