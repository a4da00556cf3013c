"""Contract accounts: keys, asks and bids that the account's contract signs for, not its key."""

from dataclasses import replace

import pytest

from marketplace.errors import InvalidOrder, InvalidSignature
from marketplace.services.common import Principal
from marketplace.wire.jobs import JobOrder
from marketplace.wire.market import SignedKeyRequest
from marketplace.wire.orders import AskDraft, SignedAsk, SignedCancel
from settlement.eip712 import checksum
from settlement.errors import ChainUnavailable
from settlement.signing import LocalSigner, sign
from tests.market_world import World, job_spec, key_draft, key_of
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


def make_key(world: World, signer: LocalSigner) -> Principal:
    accounts = world.catalog.accounts
    request = accounts.prepare_key(key_draft(WALLET))
    signature = sign(request, world.domain, signer)
    checked = accounts.check_key(SignedKeyRequest(message=request, signature=signature))
    with world.database.write() as store:
        return accounts.authenticate(store, accounts.create_key(store, checked)[1])


def put_ask(world: World, signer: LocalSigner, who: Principal) -> str:
    node_id = world.node()
    with world.database.write() as store:
        node = store.nodes.need(node_id)
        node.provider = WALLET
    terms = {"meter": world.meter.address, "prices": {"gpu_hour": "2.50"}}
    draft = AskDraft.model_validate({"node_id": node_id, **terms})
    ask = world.catalog.asks.prepare(node, draft, 1)
    signature = sign(ask, world.domain, signer)
    signed = world.catalog.asks.check(SignedAsk(ask=ask, signature=signature))
    with world.database.write() as store:
        return world.catalog.asks.create(store, who, signed).id


def put_job(world: World, signer: LocalSigner) -> str:
    spec = world.catalog.quotes.spec(job_spec())
    bid = world.catalog.quotes.draft(spec, WALLET, world.witness.address, 0)
    signature = sign(bid, world.domain, signer)
    buyer = caller("buyer")
    signed = JobOrder(job=spec.to_json(), bid=bid, signature=signature)
    order = world.catalog.jobs.check(buyer, signed)
    with world.database.write() as store:
        return world.catalog.jobs.submit(store, buyer, order).id


def test_keys_asks_and_bids_of_a_contract_account_are_signed_by_its_owner(owned: World) -> None:
    assert make_key(owned, OWNER).account == WALLET
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
    signed = SignedCancel(cancel=cancel, signature=sign(cancel, world.domain, signer))
    cancels.check(who, signed)
    with world.database.write() as store:
        return list(cancels.submit(store, who, signed).orders)


def test_a_contract_account_cancels_its_orders(owned: World) -> None:
    ask_id = put_ask(owned, OWNER, caller("provider"))
    with pytest.raises(InvalidSignature, match=WALLET):
        cancel_all(owned, owned.stranger)
    assert cancel_all(owned, OWNER) == [ask_id]


def test_what_the_contract_does_not_accept_is_an_invalid_signature(owned: World) -> None:
    stranger = owned.stranger
    for act in (
        lambda: make_key(owned, stranger),
        lambda: put_ask(owned, stranger, caller("provider")),
        lambda: put_job(owned, stranger),
    ):
        with pytest.raises(InvalidSignature, match=WALLET):
            act()


def test_an_ask_of_another_account_is_refused_for_that_first(owned: World) -> None:
    with pytest.raises(InvalidOrder):
        put_ask(owned, owned.stranger, owned.caller(owned.provider))


def test_while_the_chain_is_away_nothing_is_refused_for_good(owned: World) -> None:
    owned.chain.down = ChainUnavailable("away")
    for act in (
        lambda: make_key(owned, OWNER),
        lambda: put_ask(owned, OWNER, caller("provider")),
        lambda: put_job(owned, OWNER),
    ):
        with pytest.raises(ChainUnavailable):
            act()


def test_what_the_accounts_own_key_signed_needs_no_chain(world: World) -> None:
    world.chain.down = ChainUnavailable("away")
    world.ask()
    accounts = world.catalog.accounts
    request = accounts.prepare_key(key_draft(world.buyer.address))
    signature = sign(request, world.domain, world.buyer)
    signed = SignedKeyRequest(message=request, signature=signature)
    assert accounts.check_key(signed) == request
