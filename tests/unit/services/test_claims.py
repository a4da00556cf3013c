"""Claims from the provider's transaction to the receipt, top-ups, and cancelled orders."""

from __future__ import annotations

from typing import Any

import pytest

from marketplace.errors import (
    AlreadyExists,
    Conflict,
    InvalidInput,
    InvalidSignature,
    MarketError,
    NotFound,
)
from marketplace.services.ports import CANCEL_TRIES
from marketplace.services.records import LeaseRecord
from settlement.chain.calls import EscrowCalls
from settlement.orders import Cancel
from settlement.ports import IntentKind
from settlement.signing import LocalSigner, sign
from tests.market_world import TOKEN, World, key_of, memory_world

ARBITER = key_of("arbiter")


@pytest.fixture
def arbitrated() -> World:
    """A market whose orders name an arbiter, with an ask and money on both sides."""
    world = memory_world(arbiter=ARBITER.address)
    world.ask()
    world.fund()
    world.fund(1, world.provider)
    return world


def running(world: World, **changes: Any) -> tuple[str, LeaseRecord]:
    """A lease with 10 s countersigned, of which nothing is settled, and 20 s attested."""
    job_id, lease_id = world.open(**changes)
    world.use(lease_id, 0, 0)
    world.clock.advance(10)
    world.use(lease_id, 1, 10_000)
    world.clock.advance(10)
    world.attest(lease_id, 2, 20_000)
    world.chain.mine()
    return job_id, world.lease(lease_id)


def settled(world: World, lease_id: str) -> None:
    world.catalog.settling.settle()
    world.chain.mine()
    assert world.lease(lease_id).settled["ms"] == 10_000


def claimed(world: World) -> tuple[str, LeaseRecord]:
    job_id, lease = running(world)
    settled(world, lease.id)
    world.chain.claim(lease, 20_000)
    world.chain.mine()
    return job_id, world.lease(lease.id)


def names(steps: list[dict[str, Any]]) -> list[str]:
    return [step["call"] for step in steps]


def test_a_claim_settles_the_best_voucher_first(arbitrated: World) -> None:
    world = arbitrated
    _, lease = running(world)
    disputes, caller = world.catalog.disputes, world.caller(world.provider)
    with world.database.read() as store:
        steps = disputes.claim(store, caller, lease.id, None)
    assert names(steps) == ["settle", "claim"]
    calls = EscrowCalls(world.domain.verifying_contract)
    (voucher,) = calls.vouchers(bytes.fromhex(steps[0]["data"][2:]))
    assert voucher.voucher.ms == 10_000
    settled(world, lease.id)
    with world.database.read() as store:
        assert names(disputes.claim(store, caller, lease.id, 15_000)) == ["claim"]


@pytest.mark.parametrize("ms", [1, 10_000, 130_001])
def test_a_claim_stays_between_what_was_settled_and_the_most(arbitrated: World, ms: int) -> None:
    world = arbitrated
    _, lease = running(world)
    with world.database.read() as store, pytest.raises(InvalidInput):
        world.catalog.disputes.claim(store, world.caller(world.provider), lease.id, ms)


def test_a_claim_without_an_arbiter_or_by_another_is_refused(world: World) -> None:
    world.ask()
    world.fund()
    _, lease = running(world)
    with world.database.read() as store:
        with pytest.raises(Conflict, match="no arbiter"):
            world.catalog.disputes.claim(store, world.caller(world.provider), lease.id, None)
        for other in (world.buyer, world.stranger):
            with pytest.raises(NotFound):
                world.catalog.disputes.claim(store, world.caller(other), lease.id, None)


def test_a_claimed_lease_ends_its_job_and_is_shown(arbitrated: World) -> None:
    world = arbitrated
    job_id, lease = claimed(world)
    assert (lease.state, lease.claimed_ms) == ("claimed", 20_000)
    job = world.job(job_id)
    assert (job.state, job.reason) == ("cancelled", "lease_claimed")
    with world.database.read() as store:
        shown = world.catalog.jobs.to_json(store, job)["claim"]
        found = world.catalog.disputes.find(store, world.caller(ARBITER), None, (), 10, None)
    assert (shown["ms"], shown["settled_ms"], shown["contested"]) == (20_000, 10_000, False)
    assert shown["amount"] == shown["bond"]
    assert [row.id for row in found] == [lease.id]


def test_a_claim_that_nobody_contests_is_closed_by_the_market(arbitrated: World) -> None:
    world = arbitrated
    job_id, lease = claimed(world)
    assert world.catalog.settling.close_claims() == 0
    world.clock.advance(61)
    world.chain.mine()
    assert world.catalog.settling.close_claims() == 1
    assert world.catalog.settling.close_claims() == 0
    world.chain.mine()
    lease = world.lease(lease.id)
    assert lease.state == "closed"
    with world.database.read() as store:
        (receipt,) = store.receipts.find(job_id=job_id)
    document = receipt.document
    assert document["conserved"] is True
    assert document["lines"][-1]["resource"] == "claim"
    assert document["claim"]["awarded"] == document["claim"]["amount"]
    assert int(document["gross"]["atoms"]) == lease.released


def test_a_contested_claim_is_divided_by_its_arbiter_alone(arbitrated: World) -> None:
    world = arbitrated
    job_id, lease = claimed(world)
    disputes = world.catalog.disputes
    with world.database.read() as store:
        steps = disputes.contest(store, world.caller(world.buyer), lease.id)
        with pytest.raises(NotFound):
            disputes.contest(store, world.caller(world.provider), lease.id)
        with pytest.raises(Conflict):
            disputes.prepare_ruling(store, world.caller(ARBITER), lease.id, 1)
    assert names(steps) == ["contest"]
    world.chain.contest(lease)
    world.chain.mine()
    assert world.lease(lease.id).state == "contested"
    award = int((lease.claim or {})["amount"]) // 4

    def rule(signer: LocalSigner, caller: LocalSigner, atoms: int = award) -> None:
        with world.database.write() as store:
            ruling = disputes.prepare_ruling(store, world.caller(ARBITER), lease.id, award)
            message = {**ruling.to_message(), "award": str(atoms)}
            signature = sign(ruling, world.domain, signer)
            signed = disputes.read(world.caller(caller), message, signature)
            disputes.rule(store, world.caller(caller), lease.id, signed)

    for signer, caller, error in (
        (ARBITER, world.buyer, NotFound),
        (world.provider, ARBITER, InvalidSignature),
    ):
        with pytest.raises(error):
            rule(signer, caller)
    with pytest.raises(InvalidSignature):
        rule(ARBITER, ARBITER, award + 1)
    rule(ARBITER, ARBITER)
    world.chain.mine()
    with world.database.read() as store:
        (receipt,) = store.receipts.find(job_id=job_id)
    claim = receipt.document["claim"]
    assert (claim["contested"], claim["awarded"]["atoms"]) == (True, str(award))
    bonds = int(claim["bonds_to_provider"]["atoms"]), int(claim["bonds_to_buyer"]["atoms"])
    assert (bonds[0], sum(bonds)) == (2 * award, 2 * int(claim["amount"]["atoms"]))
    assert receipt.document["conserved"] is True


def test_a_top_up_is_written_out_within_the_budget(world: World) -> None:
    world.ask()
    world.fund()
    job_id, _ = running(world, budget={"max_total": "1"})
    disputes = world.catalog.disputes
    with world.database.read() as store:
        _, steps, lock = disputes.top_up(store, world.caller(world.buyer), job_id, 60)
        assert names(steps) == ["top_up"]
        assert 0 < int(lock["atoms"]) < TOKEN
        with pytest.raises(InvalidInput, match=r"costs up to [\d.]+ CMP; .* has [\d.]+ CMP left"):
            disputes.top_up(store, world.caller(world.buyer), job_id, 7_200)
        for seconds in (0, 40 * 86_400):
            with pytest.raises(InvalidInput):
                disputes.top_up(store, world.caller(world.buyer), job_id, seconds)
        with pytest.raises(NotFound):
            disputes.top_up(store, world.caller(world.provider), job_id, 60)


def cancel(world: World, signer: LocalSigner, order_id: str | None) -> list[str]:
    """Sign and hand in a Cancel; returns the orders it took off the book."""
    cancels, caller = world.catalog.cancels, world.caller(signer)
    with world.database.write() as store:
        message = cancels.prepare(store, caller, order_id)
        signature = sign(message, world.domain, signer)
        signed = cancels.read(caller, message.to_message(), signature)
        done = cancels.submit(store, caller, signed)
    world.match()
    world.chain.mine()
    return list(done["orders"])


RESTING = {"start_deadline": "1h", "retry": {"on_events": ["no-capacity"], "duration": "1h"}}


def test_a_cancelled_ask_fills_nothing_and_is_void_on_chain(world: World) -> None:
    world.fund()
    ask_id = world.ask()
    assert cancel(world, world.provider, ask_id) == [ask_id]
    assert world.chain.cancelled == {(world.provider.address, 0)}
    job_id = world.submit()
    world.match()
    assert world.job(job_id).state == "no_match"


def test_a_cancelled_bid_leaves_the_book_and_its_job_ends(world: World) -> None:
    world.fund()
    job_id = world.submit(**RESTING)
    world.match()
    assert cancel(world, world.buyer, job_id) == [world.job(job_id).bid_id]
    assert world.job(job_id).state == "cancelled"
    world.ask()
    world.match()
    assert world.job(job_id).lease_id is None


def test_a_bid_cancelled_while_it_runs_is_not_opened_again(world: World) -> None:
    world.fund()
    world.ask()
    retry = {"on_events": ["interruption"], "duration": "1h"}
    job_id, lease_id = world.open(retry=retry)
    world.use(lease_id, 0, 0)
    world.ask()
    cancel(world, world.buyer, job_id)
    assert world.job(job_id).state in ("starting", "running")
    world.clock.advance(120)
    world.catalog.watchdog.tick()
    world.stop(lease_id)
    world.chain.mine()
    world.match()
    assert world.job(job_id).state == "lost"
    assert world.job(job_id).lease_id == lease_id


def test_all_older_orders_are_cancelled_and_a_later_one_is_not(world: World) -> None:
    world.fund()
    asks = [world.ask(), world.ask()]
    assert cancel(world, world.provider, None) == asks
    with world.database.read() as store:
        kept = store.accounts.get(world.provider.address)
    assert kept is not None
    assert kept.orders_from == kept.next_salt == 2
    later = world.ask()
    early = Cancel(world.provider.address, 99, True)
    signature = sign(early, world.domain, world.provider)
    caller, cancels = world.caller(world.provider), world.catalog.cancels
    signed = cancels.read(caller, early.to_message(), signature)
    with world.database.write() as store, pytest.raises(InvalidInput):
        cancels.submit(store, caller, signed)
    job_id, _ = world.open()
    with world.database.read() as store:
        lease = store.leases.one(job_id=job_id)
    assert lease is not None
    assert lease.ask_id == later


def test_a_cancel_is_the_accounts_own(world: World) -> None:
    ask_id = world.ask()
    cancels = world.catalog.cancels
    with world.database.write() as store:
        message = cancels.prepare(store, world.caller(world.provider), ask_id)
        for signer, caller, error in (
            (world.stranger, world.provider, InvalidSignature),
            (world.provider, world.stranger, InvalidInput),
        ):
            signature = sign(message, world.domain, signer)
            with pytest.raises(error):
                cancels.read(world.caller(caller), message.to_message(), signature)
        for order_id in (ask_id, "job_none", None):
            with pytest.raises((NotFound, Conflict)):
                cancels.prepare(store, world.caller(world.stranger), order_id)


def submit(world: World, signer: LocalSigner, salt: int, *, and_older: bool = False) -> None:
    """Sign a Cancel that nobody wrote out, and hand it in."""
    message = Cancel(signer.address, salt, and_older)
    with world.database.write() as store:
        signature = sign(message, world.domain, signer)
        caller = world.caller(signer)
        signed = world.catalog.cancels.read(caller, message.to_message(), signature)
        world.catalog.cancels.submit(store, caller, signed)


def refused(world: World, error: type[MarketError], salt: int, *, and_older: bool = False) -> None:
    """The provider's Cancel is refused, with a pointer, and leaves nothing to pay for."""
    before = [intent.key for intent in world.chain.outbox.pending(100)]
    with pytest.raises(error) as caught:
        submit(world, world.provider, salt, and_older=and_older)
    assert [problem.pointer for problem in caught.value.problems] == ["/cancel/salt"]
    assert [intent.key for intent in world.chain.outbox.pending(100)] == before


def test_a_cancel_of_no_order_here_is_not_paid_for(world: World) -> None:
    world.ask()
    for salt in (1, 2**63):
        refused(world, InvalidInput, salt)
    submit(world, world.provider, 0)
    with world.database.write() as store:
        unused = world.catalog.accounts.salt(store, world.stranger.address)
    with pytest.raises(InvalidInput):
        submit(world, world.stranger, unused)
    with pytest.raises(InvalidInput):
        submit(world, world.stranger, unused, and_older=True)
    with world.database.read() as store, pytest.raises(Conflict):
        world.catalog.cancels.prepare(store, world.caller(world.stranger), None)


def test_a_cancel_is_paid_for_once(world: World) -> None:
    world.ask()
    submit(world, world.provider, 0)
    refused(world, AlreadyExists, 0)
    refused(world, InvalidInput, 0, and_older=True)
    world.chain.mine()
    refused(world, AlreadyExists, 0)
    world.ask()
    world.ask()
    submit(world, world.provider, 1, and_older=True)
    for salt in (0, 1):
        refused(world, AlreadyExists, salt)
        refused(world, AlreadyExists, salt, and_older=True)
    submit(world, world.provider, 2)


def die(world: World, kind: IntentKind) -> str:
    """The pending intent of a kind dies; returns its key."""
    (intent,) = [one for one in world.chain.outbox.pending(100) if one.kind is kind]
    world.chain.outbox.mark_dead(intent.id, "the node refused the call")
    return intent.key


def test_a_cancel_that_died_is_taken_again_but_not_for_ever(world: World) -> None:
    world.ask()
    keys = []
    for _ in range(CANCEL_TRIES):
        submit(world, world.provider, 0)
        refused(world, AlreadyExists, 0)
        keys.append(die(world, IntentKind.CANCEL))
    assert len(set(keys)) == CANCEL_TRIES
    with pytest.raises(Conflict, match="refused this Cancel 4 times, last with the node refused"):
        submit(world, world.provider, 0)


def test_a_cancel_of_a_second_try_voids_the_order(world: World) -> None:
    world.ask()
    submit(world, world.provider, 0)
    die(world, IntentKind.CANCEL)
    with world.database.read() as store:
        assert store.order_salts(world.provider.address, 0, 9) == (0, 0)
    submit(world, world.provider, 0)
    with world.database.read() as store:
        assert store.order_salts(world.provider.address, 0, 9) is None
    world.chain.mine()
    assert world.chain.cancelled == {(world.provider.address, 0)}


def test_a_cancel_of_all_orders_that_died_is_written_out_again(world: World) -> None:
    world.ask()
    world.ask()
    submit(world, world.provider, 1, and_older=True)
    refused(world, AlreadyExists, 0)
    die(world, IntentKind.CANCEL)
    with world.database.read() as store:
        written = world.catalog.cancels.prepare(store, world.caller(world.provider), None)
    assert (written.salt, written.and_older) == (1, True)
    submit(world, world.provider, 0)  # one of them alone, too
    submit(world, world.provider, 1, and_older=True)
    refused(world, AlreadyExists, 1)
    with world.database.read() as store, pytest.raises(Conflict):
        world.catalog.cancels.prepare(store, world.caller(world.provider), None)


def test_a_stop_that_died_is_sent_again(world: World) -> None:
    world.ask()
    world.fund()
    _, lease_id = world.open()
    world.stop(lease_id)
    world.stop(lease_id)
    die(world, IntentKind.STOP)
    world.stop(lease_id)
    world.stop(lease_id)
    assert die(world, IntentKind.STOP) == f"stop:{lease_id}/2"
    world.stop(lease_id)
    world.chain.mine()
    assert world.lease(lease_id).state == "stopped"
    world.stop(lease_id)


def test_all_orders_are_cancelled_up_to_the_newest_that_is_left(world: World) -> None:
    world.ask()
    with world.database.write() as store:
        world.catalog.accounts.salt(store, world.provider.address)
        written = world.catalog.cancels.prepare(store, world.caller(world.provider), None)
    assert (written.salt, written.and_older) == (0, True)
