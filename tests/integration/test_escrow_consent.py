"""Who may send signed calls, spend from a purse, and sign for a contract's account."""

from dataclasses import replace

from settlement.attestation import Stop
from settlement.chain.calls import Match
from settlement.chain.devnet import dev_account
from settlement.eip712 import ZERO_ADDRESS
from settlement.orders import Cancel, Numbered, TopUp, Withdraw
from settlement.signing import LocalSigner, sign
from tests.escrow_world import FAR, TOKEN, World
from tests.integration.test_escrow_callers import NOBODY, refused, running
from tests.wallet_contracts import owned_wallet


def test_a_signed_stop_is_good_until_its_deadline(world: World) -> None:
    lease, deadline = running(world), world.client.timestamp() + 30
    data = lease.stop(world.witness, deadline=deadline)
    with world.chain.put_back():
        world.send(world.stranger, data)
    world.chain.warp(31)
    assert refused(world, world.stranger, data).name == "SignatureExpired"


def test_a_signed_call_is_the_accounts_and_for_the_relayer_that_it_names(world: World) -> None:
    relayer = world.relayer.address
    lease = running(world)
    for data in (
        world.withdrawal(TOKEN, NOBODY, relayer=relayer, fee=5),
        lease.top_up(60, relayer=relayer, fee=5),
    ):
        assert refused(world, world.stranger, data).name == "NotRelayer"
        world.send(world.relayer, data)
        assert refused(world, world.relayer, data).name == "CallUsed"
    past = world.client.timestamp() - 1
    late = (world.withdrawal(TOKEN, NOBODY, deadline=past), lease.top_up(60, deadline=past))
    assert [refused(world, world.relayer, data).name for data in late] == ["SignatureExpired"] * 2
    foreign = lease.top_up(60, world.stranger)
    assert refused(world, world.relayer, foreign).name == "InvalidSignature"
    poor = world.withdrawal(1, NOBODY, world.stranger)
    assert refused(world, world.relayer, poor).name == "InsufficientBalance"
    greedy = world.withdrawal(5, NOBODY, fee=5)
    assert refused(world, world.relayer, greedy).name == "RelayFeeTooHigh"


def test_a_purse_is_its_owners_and_spent_by_its_operator(world: World) -> None:
    owner, operator, calls = world.buyer, world.stranger, world.escrow.calls
    purse = world.purse(operator, 50 * TOKEN)
    for data in (
        calls.fund_purse(purse, 1),
        calls.sweep_purse(purse, 1),
        calls.expire_purse(purse, 1),
    ):
        assert refused(world, operator, data).name == "NotPurseOwner"
    bid = world.bid(buyer=purse)

    def match(signer: LocalSigner) -> Match:
        signature = sign(bid, world.escrow.domain(), signer)
        return replace(world.match(bid=bid), bid_signature=signature)

    for signer in (owner, world.relayer):
        data = calls.open(match(signer))
        assert refused(world, world.relayer, data).name == "InvalidSignature"
    lease = world.open(match(operator))
    by_operator = lease.top_up(60, operator, fee=1)  # a fee would be the operator's to take
    assert refused(world, world.relayer, by_operator).name == "InvalidSignature"
    world.send(world.relayer, lease.top_up(60, operator))
    world.send(world.relayer, lease.top_up(60, owner, fee=1))
    call = Withdraw(purse, NOBODY, 1, 77, FAR, ZERO_ADDRESS, 0)
    for signer in (owner, operator):
        data = calls.withdraw_by_signature(call, sign(call, world.escrow.domain(), signer))
        assert refused(world, signer, data).name == "InvalidSignature"
    world.send(owner, calls.stop(lease.ref))


def test_a_contract_account_signs_orders_calls_stops_and_cancels(world: World) -> None:
    owner, client, calls = world.buyer, world.client, world.escrow.calls
    wallet, domain = owned_wallet(client, owner), world.escrow.domain()
    approve = world.token.approve(world.escrow.address, 20 * TOKEN)
    world.send(dev_account(0), approve, world.token.address)
    world.send(dev_account(0), calls.deposit_for(wallet, 20 * TOKEN))

    bid = world.bid(buyer=wallet, max_seconds=600)
    lease = world.open(replace(world.match(bid=bid), bid_signature=sign(bid, domain, owner)))
    top_up = TopUp(*lease.ref.unwitnessed, 60, 1, FAR, ZERO_ADDRESS, 3)
    withdraw = Withdraw(wallet, NOBODY, TOKEN, 2, FAR, ZERO_ADDRESS, 5)
    stop = Stop(*lease.ref.unwitnessed, True, FAR)
    cancel = Cancel(wallet, Numbered.ORDERS, bid.salt, False)

    def signed_by(signer: LocalSigner) -> list[bytes]:
        opened = lease.match.opened
        return [
            calls.top_up_by_signature(opened, top_up, sign(top_up, domain, signer)),
            calls.withdraw_by_signature(withdraw, sign(withdraw, domain, signer)),
            calls.stop_by_signature(lease.ref, stop, bytes(32), sign(stop, domain, signer)),
            calls.cancel(cancel, sign(cancel, domain, signer)),
        ]

    for data in signed_by(world.stranger):
        assert refused(world, world.relayer, data).name == "InvalidSignature"
    for data in signed_by(owner):
        world.send(world.relayer, data)
    assert world.token.balance_of(NOBODY) == TOKEN - 5
    assert world.escrow.balance_of(world.relayer.address) == 8
    assert lease.view().again
    assert world.escrow.salt_state(wallet, bid.salt).cancelled
