"""Jobs that a purse pays for: its operator signs them, and its owner can lose what is in it."""

from dataclasses import replace

import pytest

from marketplace.errors import (
    InsufficientBalance,
    InvalidOrder,
    InvalidSignature,
    PurseExpired,
)
from marketplace.services.common import Principal
from marketplace.wire.orders import SignedAsk, SignedCancel
from settlement.consent import Purse
from settlement.eip712 import checksum
from settlement.orders import Ask, Cancel, Numbered
from settlement.signing import LocalSigner
from tests.market_world import TOKEN, World, key_of

PURSE = checksum("0x" + "b0" * 20)
OWNER, OPERATOR = key_of("purse owner"), key_of("purse operator")
LIFE_S = 3_600
CALLER = Principal(PURSE, ("buyer",), None)


@pytest.fixture
def owned(world: World) -> World:
    """A market with three asks, and a purse of two tokens on its chain."""
    for _ in range(3):
        world.ask()
    expiry = world.clock() // 1000 + LIFE_S
    world.chain.purses[PURSE] = Purse(OWNER.address, expiry, OPERATOR.address)
    world.chain.balances[PURSE] = 2 * TOKEN
    return world


def buy(world: World, signer: LocalSigner = OPERATOR, salt: int = 0) -> str:
    signed = world.sign_order(*world.order(salt, PURSE), signer)
    order = world.catalog.jobs.check(CALLER, signed)
    with world.database.write() as store:
        job_id = world.catalog.jobs.submit(store, CALLER, order).id
    world.match()
    return job_id


def test_an_operator_buys_with_its_purses_money_and_refunds_return_there(owned: World) -> None:
    assert owned.log_in(PURSE, OPERATOR).account == PURSE
    job_id = buy(owned)
    owned.chain.mine()
    lease = owned.lease(owned.job(job_id).lease_id or "")
    assert (lease.buyer, owned.chain.balances[PURSE]) == (PURSE, 2 * TOKEN - lease.lock)
    owned.buyer = owned.witness  # whose API key hands in what it signs
    owned.use(lease.id, 0, 0)
    owned.end(lease.id, 1, 10_000, after=10)
    paid = owned.lease(lease.id).released
    assert owned.chain.balances[PURSE] == 2 * TOKEN - paid
    assert owned.chain.balances[OPERATOR.address] == owned.chain.balances[OWNER.address] == 0


def test_an_owner_may_log_in_but_not_sign_bids(owned: World) -> None:
    assert owned.log_in(PURSE, OWNER).account == PURSE
    with pytest.raises(InvalidSignature, match=f"its operator {OPERATOR.address} signs its bids"):
        buy(owned, OWNER)


@pytest.mark.parametrize("act", [lambda world, signer: world.log_in(PURSE, signer), buy])
def test_a_stranger_signs_nothing_for_a_purse(owned: World, act: object) -> None:
    assert callable(act)
    with pytest.raises(
        InvalidSignature, match=r"not somebody else; it must be signed for contract"
    ):
        act(owned, owned.stranger)


def test_a_bid_of_a_purse_with_another_accounts_key_is_refused(owned: World) -> None:
    signed = owned.sign_order(*owned.order(0, PURSE), OPERATOR)
    with pytest.raises(InvalidOrder, match="must be the account of the API key"):
        owned.catalog.jobs.check(owned.caller(OPERATOR), signed)


def test_nothing_new_is_signed_after_the_expiry(owned: World) -> None:
    owned.clock.advance(LIFE_S)
    buy(owned, salt=0)  # the expiry's own second is the last
    owned.clock.advance(1)
    for act in (lambda: owned.log_in(PURSE, OPERATOR), lambda: buy(owned, salt=1)):
        with pytest.raises(PurseExpired, match="nothing new opens for it") as refusal:
            act()
        assert refusal.value.code == "purse_expired"
    assert owned.log_in(PURSE, OWNER).account == PURSE


def test_an_operators_contract_that_says_yes_to_everything_shuts_no_owner_out(
    owned: World,
) -> None:
    operator = checksum("0x" + "c7" * 20)
    owned.chain.purses[PURSE] = replace(owned.chain.purses[PURSE], operator=operator)
    owned.chain.wallets[operator] = OWNER.address  # to what the owner signed, at least
    owned.clock.advance(LIFE_S + 1)
    assert owned.log_in(PURSE, OWNER).account == PURSE


@pytest.mark.parametrize("signer", [OPERATOR, OWNER])
def test_jobs_and_bids_are_cancelled_after_the_expiry_by_either(
    owned: World, signer: LocalSigner
) -> None:
    first, second = buy(owned, salt=0), buy(owned, salt=1)
    owned.clock.advance(LIFE_S + 1)
    with owned.database.write() as store:
        owned.catalog.jobs.cancel(store, CALLER, first)
    cancel = Cancel(PURSE, Numbered.ORDERS, 1, False)
    signed = owned.signed(SignedCancel, signer, cancel=cancel)
    owned.catalog.cancels.check(CALLER, signed)
    with owned.database.write() as store:
        voided = owned.catalog.cancels.submit(store, CALLER, signed).orders
    assert voided == (owned.job(second).bid_id,)
    assert owned.job(first).ending or owned.job(first).state == "cancelled"


def test_a_stranger_cancels_no_bid_of_a_purse(owned: World) -> None:
    buy(owned)
    cancel = Cancel(PURSE, Numbered.ORDERS, 0, False)
    signed = owned.signed(SignedCancel, owned.stranger, cancel=cancel)
    with pytest.raises(InvalidSignature, match="signs its cancels, not somebody else"):
        owned.catalog.cancels.check(CALLER, signed)


def test_concurrent_bids_do_not_overdraw_a_purse(owned: World) -> None:
    lock = owned.job(buy(owned)).reserve
    owned.chain.balances[PURSE] = 2 * lock - 1
    with pytest.raises(InsufficientBalance):
        buy(owned, salt=1)
    owned.chain.balances[PURSE] = 2 * lock
    buy(owned, salt=2)


def test_a_purse_that_expired_before_its_lease_opened_ends_the_job(owned: World) -> None:
    job_id = buy(owned)
    owned.refuse_opening(job_id, "PurseExpired(1, 2)")
    job = owned.job(job_id)
    assert job.state == "failed", job.state
    assert "PurseExpired" in (job.detail or ""), job.detail


def test_nobody_signs_asks_for_a_purse(owned: World) -> None:
    with owned.database.read() as store:
        row, *_ = store.asks.page({"provider": owned.provider.address}, (), (9, None))
        ask = replace(Ask.from_message(row.message), provider=PURSE)
    for signer in (OPERATOR, OWNER):
        checked = owned.catalog.asks.check(owned.signed(SignedAsk, signer, ask=ask))
        assert "nobody signs this for it" in str(checked.refusal)
