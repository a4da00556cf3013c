"""Withdrawals and top-ups that the market's relayer sends, on real processes and a real chain."""

import time
from dataclasses import replace
from types import SimpleNamespace as Seen

import pytest

from marketplace.sdk import Coulomb
from marketplace.sdk.errors import ApiError, InputError
from marketplace.wire.orders import RelayedCall, SignedWithdrawal
from settlement.chain.devnet import dev_account
from settlement.orders import Numbered, Withdraw
from settlement.signing import sign
from tests.e2e.chain import assert_books_balance, on_chain
from tests.e2e.jobs import COUNTING, until_running
from tests.e2e.world import ONE, RELAYER, Party, World, job_of
from tests.programs import PATIENCE_S

DEPOSIT, FEE = 20 * ONE, ONE // 100
FAR_AWAY = "0x" + "77" * 20


def without_gas(world: World, party: Party) -> Party:
    world.chain_client.rpc("anvil_setBalance", party.address, "0x0")
    return party


@pytest.fixture(scope="module")
def ada(world: World) -> Party:
    """A buyer with tokens in the escrow and nothing for gas."""
    return without_gas(world, world.buyer("ada", DEPOSIT))


@pytest.fixture(scope="module")
def story(world: World, ada: Party) -> Seen:
    """A job that is topped up while it runs, then a withdrawal; neither costs gas of one's own."""
    world.provider("north")
    with world.client(ada) as client:
        job = client.jobs.submit(job_of(COUNTING, max_duration="5m", budget={"max_total": "2"}))
        lease = until_running(world, job)
        before = on_chain(world, lease).funded
        topped = world.cli(ada, "job", "top-up", job.id, "5m", "--relayed", "--yes")
        longer = on_chain(world, lease).funded - before
        job.cancel()
        job.wait(PATIENCE_S)
        receipt = job.receipt()
    free = world.escrow.balance_of(ada.address)
    words = ("wallet", "withdraw", "5", "--to", FAR_AWAY, "--relayed")
    world.cli(ada, *words, "--dry-run")
    unmoved = world.escrow.balance_of(ada.address)
    withdrawn = world.cli(ada, *words, "--yes")
    return Seen(
        topped=topped, longer=longer, receipt=receipt, free=free, unmoved=unmoved,
        withdrawn=withdrawn,
    )  # fmt: skip


def test_a_relayed_top_up_extends_the_lease_for_the_fee(world: World, story: Seen) -> None:
    assert story.topped["state"] in ("confirmed", "final")
    assert story.longer == 300
    assert "ToppedUp" in [line.kind for line in story.receipt.transactions]
    assert story.receipt.conserved
    assert story.free == DEPOSIT - FEE - story.receipt.gross.atoms


def test_a_relayed_withdrawal_arrives_less_the_fee(world: World, ada: Party, story: Seen) -> None:
    assert story.unmoved == story.free
    assert (story.withdrawn["amount"], story.withdrawn["fee"]) == ("5 CMP", "0.01 CMP")
    assert world.token.balance_of(FAR_AWAY) == 5 * ONE - FEE
    assert world.escrow.balance_of(ada.address) == story.free - 5 * ONE
    assert world.chain_client.balance(ada.address) == 0
    assert_books_balance(world)


def hand_in(client: Coulomb, world: World, party: Party, call: Withdraw) -> RelayedCall:
    """A signed withdrawal as a client of one's own would send it."""
    body = SignedWithdrawal(call=call, signature=sign(call, world.escrow.domain(), party.signer))
    return client.calls._transport.post(RelayedCall, "/v1/calls/withdrawals", body)


@pytest.mark.usefixtures("story")
def test_what_would_fail_is_refused_and_costs_the_relayer_nothing(world: World, ada: Party) -> None:
    stranger = world.newcomer("stranger")
    relayer = dev_account(RELAYER).address
    names = (ada.address, FAR_AWAY, ONE)
    with world.client(ada) as client:
        good = Withdraw(*names, 2, int(time.time()) + 600, relayer, FEE)
        nonce = world.chain_client.nonce(relayer)
        for call, signer, code in (
            (replace(good, amount=FEE), ada, "relay_fee"),
            (replace(good, fee=0), ada, "relay_fee"),
            (replace(good, deadline=int(time.time()) - 1), ada, "call_expired"),
            (replace(good, deadline=int(time.time()) + 900), ada, "call_expired"),
            (replace(good, salt=1), ada, "call_used"),
            (replace(good, amount=DEPOSIT), ada, "insufficient_balance"),
            (replace(good, to=world.escrow.address), ada, "call_refused"),
            (good, stranger, "invalid_signature"),
            (replace(good, account=stranger.address), stranger, "invalid_request"),
        ):
            with pytest.raises(ApiError) as refusal:
                hand_in(client, world, signer, call)
            assert refusal.value.code == code, refusal.value
        assert world.chain_client.nonce(relayer) == nonce
        first = hand_in(client, world, ada, good)
        assert first.state == "pending"
        done = client.calls._mined(hand_in(client, world, ada, good))
        assert hand_in(client, world, ada, good) == done
        assert world.escrow.salt_state(ada.address, 2, Numbered.CALLS).used


@pytest.mark.usefixtures("story")
def test_nothing_is_signed_while_an_earlier_call_is_on_its_way(world: World, ada: Party) -> None:
    with world.client(ada) as client:
        client.market.config()
        terms = client.calls.terms(ada.address)
        world.chain_client.rpc("evm_setIntervalMining", 0)
        try:
            names = (ada.address, FAR_AWAY, ONE)
            call = Withdraw(*names, terms.salt, terms.deadline, terms.relayer, terms.fee)
            made = hand_in(client, world, ada, call)
            with pytest.raises(InputError, match=f"{made.id} of this account is (pending|sent)"):
                client.calls.withdraw(ONE)
        finally:
            world.chain_client.rpc("evm_setIntervalMining", 1)
        client.calls._mined(made)
        assert client.calls.terms(ada.address).salt == terms.salt + 1
    assert_books_balance(world)
