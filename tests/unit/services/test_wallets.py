"""Contract accounts: keys, asks and bids that the account's contract signs for, not its key."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from marketplace.errors import InvalidOrder, InvalidSignature
from marketplace.services.common import Principal
from marketplace.wire.market import SignedKeyRequest
from marketplace.wire.orders import AskDraft, SignedAsk, SignedCancel
from settlement.eip712 import checksum
from settlement.errors import ChainUnavailable
from settlement.signing import LocalSigner
from tests.market_world import World, key_draft, key_of
from tests.wallet_cases import BAD, OWNER, WalletCases, Wallets

WALLET = checksum("0x" + "c0" * 20)


class TestFakeWallets(WalletCases):
    @pytest.fixture
    def wallets(self, owned: World) -> Wallets:
        bad = {kind: key_of(kind).address for kind in BAD}
        away = replace(owned.chain, down=ChainUnavailable("away"))
        return Wallets(owned.chain, away, WALLET, bad)


def caller(*scopes: str) -> Principal:
    return Principal(WALLET, scopes, None)


@pytest.fixture
def owned(world: World) -> World:
    """A market on whose chain OWNER owns the account."""
    world.chain.wallets[WALLET] = OWNER.address
    return world


def put_ask(world: World, signer: LocalSigner, who: Principal) -> str:
    node_id = world.node()
    with world.database.write() as store:
        node = store.nodes.need(node_id)
        node.provider = WALLET
    terms = {"meter": world.meter.address, "prices": {"gpu_hour": "2.50"}}
    draft = AskDraft.model_validate({"node_id": node_id, **terms})
    ask = world.catalog.asks.prepare(node, draft, 1)
    signed = world.catalog.asks.check(world.signed(SignedAsk, signer, ask=ask))
    with world.database.write() as store:
        return world.catalog.asks.create(store, who, signed).id


def put_job(world: World, signer: LocalSigner) -> str:
    buyer = caller("buyer")
    signed = world.sign_order(*world.order(0, WALLET), signer)
    order = world.catalog.jobs.check(buyer, signed)
    with world.database.write() as store:
        return world.catalog.jobs.submit(store, buyer, order).id


def test_keys_asks_and_bids_of_a_contract_account_are_signed_by_its_owner(owned: World) -> None:
    assert owned.log_in(WALLET, OWNER).account == WALLET
    put_ask(owned, OWNER, caller("provider"))
    owned.chain.balances[WALLET] = 10**20
    job_id = put_job(owned, OWNER)
    owned.match()
    owned.chain.mine()
    assert owned.job(job_id).state == "starting"
    lease_id = owned.job(job_id).lease_id
    assert lease_id is not None
    lease = owned.lease(lease_id)
    assert (lease.buyer, lease.provider) == (WALLET, WALLET)


def cancel_all(world: World, signer: LocalSigner) -> list[str]:
    cancels, who = world.catalog.cancels, caller("provider")
    with world.database.read() as store:
        cancel = cancels.prepare(store, who, None)
    signed = world.signed(SignedCancel, signer, cancel=cancel)
    cancels.check(who, signed)
    with world.database.write() as store:
        return list(cancels.submit(store, who, signed).orders)


def test_a_contract_account_cancels_its_orders(owned: World) -> None:
    ask_id = put_ask(owned, OWNER, caller("provider"))
    with pytest.raises(InvalidSignature, match=WALLET):
        cancel_all(owned, owned.stranger)
    assert cancel_all(owned, OWNER) == [ask_id]


ACTS: tuple[Callable[[World, LocalSigner], Any], ...] = (
    lambda world, signer: world.log_in(WALLET, signer),
    lambda world, signer: put_ask(world, signer, caller("provider")), put_job,
)  # fmt: skip


@pytest.mark.parametrize("act", ACTS)
def test_what_the_contract_does_not_accept_is_an_invalid_signature(owned: World, act: Any) -> None:
    with pytest.raises(InvalidSignature, match=WALLET):
        act(owned, owned.stranger)


def test_an_ask_of_another_account_is_refused_for_that_first(owned: World) -> None:
    with pytest.raises(InvalidOrder):
        put_ask(owned, owned.stranger, owned.caller(owned.provider))


@pytest.mark.parametrize("act", ACTS)
def test_while_the_chain_is_away_nothing_is_refused_for_good(owned: World, act: Any) -> None:
    owned.chain.down = ChainUnavailable("away")
    with pytest.raises(ChainUnavailable):
        act(owned, OWNER)


def test_what_the_accounts_own_key_signed_needs_no_chain(world: World) -> None:
    world.chain.down = ChainUnavailable("away")
    world.ask()
    accounts = world.catalog.accounts
    request = accounts.prepare_key(key_draft(world.buyer.address))
    signed = world.signed(SignedKeyRequest, world.buyer, message=request)
    assert accounts.check_key(signed) == request
