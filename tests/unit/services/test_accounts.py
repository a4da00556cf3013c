"""Keys: made by signature, kept as hashes, scoped, capped, revoked, expired."""

from dataclasses import replace
from typing import Any

import pytest

from marketplace.db.tables import ApiKeyRow
from marketplace.domain.drafts import KeyRequest
from marketplace.errors import (
    AlreadyExists,
    BudgetExceeded,
    Forbidden,
    InvalidInput,
    InvalidSignature,
    NotFound,
    Unauthenticated,
)
from marketplace.services.common import Principal
from marketplace.services.views import key_view
from marketplace.wire.market import SignedKeyRequest
from settlement.eip712 import text32
from settlement.signing import LocalSigner
from tests.market_world import TOKEN, World, key_draft, new_world


def request_of(world: World, signer: LocalSigner, **changes: Any) -> KeyRequest:
    made = world.catalog.accounts.prepare_key(key_draft(signer.address))
    return replace(made, **changes)


def make(world: World, request: KeyRequest, signer: LocalSigner) -> tuple[ApiKeyRow, str]:
    accounts = world.catalog.accounts
    checked = accounts.check_key(world.signed(SignedKeyRequest, signer, message=request))
    with world.database.write() as store:
        return accounts.create_key(store, checked)


def caller(world: World, key: str) -> Principal:
    with world.database.read() as store:
        return world.catalog.accounts.authenticate(store, key)


def test_a_key_says_who_calls_and_is_kept_as_a_hash(world: World) -> None:
    row, key = make(world, request_of(world, world.buyer), world.buyer)
    assert caller(world, key) == Principal(world.buyer.address, ("buyer",), row.id)
    assert key not in repr(row)
    shown = key_view(world.catalog.market, row)
    assert key not in repr(shown)
    assert row.secret_hash not in repr(shown)


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"scopes": text32("root")}, "/message/scopes"),
        ({"scopes": b"\xff" * 32}, "/message/scopes"),
        ({"issued_at": 1}, "/message/issuedAt"),
        ({"issued_at": 2**40 - 1}, "/message/issuedAt"),
        ({"expires_at": 1}, "/message/expiresAt"),
        ({"expires_at": 2**40 - 1}, "/message/expiresAt"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    world: World, changes: dict[str, Any], pointer: str
) -> None:
    request = request_of(world, world.buyer, **changes)
    with pytest.raises(InvalidInput) as refusal:
        make(world, request, world.buyer)
    assert [p.pointer for p in refusal.value.problems] == [pointer]


def test_a_request_signed_by_another_is_refused(world: World) -> None:
    with pytest.raises(InvalidSignature):
        make(world, request_of(world, world.buyer), world.stranger)


def test_a_request_makes_one_key(world: World) -> None:
    request = request_of(world, world.buyer)
    make(world, request, world.buyer)
    with pytest.raises(AlreadyExists):
        make(world, request, world.buyer)


def test_the_operator_scope_is_for_operators(world: World) -> None:
    request = request_of(world, world.buyer, scopes=text32("operator"))
    with pytest.raises(Forbidden):
        make(world, request, world.buyer)
    with new_world(operators=(world.buyer.address,)) as mine:
        _, key = make(mine, request_of(mine, world.buyer, scopes=text32("operator")), world.buyer)
        assert caller(mine, key).is_operator


@pytest.mark.parametrize("key", ["", "coul_", "coul_unknown", "sk_live_1"])
def test_an_unknown_key_is_nobody(world: World, key: str) -> None:
    with pytest.raises(Unauthenticated):
        caller(world, key)


def test_a_key_ends_when_it_expires_or_is_revoked(world: World) -> None:
    soon = world.clock() // 1000 + 60
    _, expiring = make(world, request_of(world, world.buyer, expires_at=soon), world.buyer)
    row, revoked = make(world, request_of(world, world.buyer), world.buyer)
    caller(world, expiring)
    world.clock.advance(60)
    with pytest.raises(Unauthenticated, match="expired"):
        caller(world, expiring)
    with world.database.write() as store, pytest.raises(NotFound):
        world.catalog.accounts.revoke(store, world.caller(world.stranger), row.id)
    world.do(world.catalog.accounts.revoke, world.buyer, row.id)
    with pytest.raises(Unauthenticated, match="revoked"):
        caller(world, revoked)


def test_a_spend_cap_counts_what_jobs_may_cost_then_what_they_cost(world: World) -> None:
    world.offer(world.node(gpus=3))
    row, key = make(world, request_of(world, world.buyer, spend_cap=TOKEN), world.buyer)
    me = caller(world, key)

    def submit(salt: int) -> str:
        order = world.catalog.jobs.check(me, world.sign_order(*world.order(salt)))
        with world.database.write() as store:
            return world.catalog.jobs.submit(store, me, order).id

    def spent() -> int:
        with world.database.read() as store:
            return int(store.keys.get(row.id).spent)

    first, _ = submit(0), submit(1)
    lock = 600 * 2500 * TOKEN // 3_600_000 + 1
    assert spent() == 2 * lock
    with pytest.raises(BudgetExceeded):
        submit(2)
    world.match()
    world.chain.mine()
    lease_id = world.job(first).lease_id or ""
    world.use(lease_id, 0, 0)
    world.end(lease_id, 1, 36_000, after=36)
    assert spent() == lock + TOKEN * 25 // 1000
    submit(2)


def test_funds_are_shown_to_their_owner_only(world: World) -> None:
    world.ask()
    world.fund(10)
    world.open()
    with world.database.read() as store:
        accounts = world.catalog.accounts
        with pytest.raises(NotFound):
            accounts.free(world.caller(world.stranger), world.buyer.address)
        free = accounts.free(world.caller(world.buyer), world.buyer.address.lower())
        funds = accounts.funds(store, world.caller(world.buyer), free)
    lock = 600 * 2500 * TOKEN // 3_600_000 + 1
    assert funds.free.atoms == 10 * TOKEN - lock
    assert (funds.locked.atoms, funds.next_salt) == (lock, 1)
