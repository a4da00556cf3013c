"""Top-ups, and orders that were cancelled."""

import pytest

from marketplace.db.store import CANCEL_TRIES
from marketplace.db.tables import LeaseRow
from marketplace.errors import (
    AlreadyExists,
    Conflict,
    InvalidInput,
    InvalidSignature,
    MarketError,
    NotFound,
)
from marketplace.wire.orders import SignedCancel
from settlement.orders import Cancel, Numbered
from settlement.ports import IntentKind
from settlement.signing import LocalSigner
from tests.market_world import TOKEN, World


def test_a_top_up_is_written_out_within_the_budget(world: World) -> None:
    job_id, lease_id = world.start(budget={"max_total": "1"})
    buyer, prepare = world.caller(world.buyer), world.catalog.jobs.top_up
    with world.database.read() as store:
        made = prepare(store, buyer, job_id, 60)
        assert (made.lease_id, made.transaction.call) == (lease_id, "top_up")
        assert 0 < made.lock.atoms < TOKEN
        with pytest.raises(InvalidInput, match=r"costs up to [\d.]+ CMP; .* has [\d.]+ CMP left"):
            prepare(store, buyer, job_id, 7_200)
        for seconds in (0, 40 * 86_400):
            with pytest.raises(InvalidInput):
                prepare(store, buyer, job_id, seconds)
        with pytest.raises(NotFound):
            prepare(store, world.caller(world.provider), job_id, 60)
    world.halt(lease_id)
    with world.database.read() as store, pytest.raises(Conflict, match="no active lease"):
        prepare(store, buyer, job_id, 60)


def cancel(world: World, signer: LocalSigner, order_id: str | None) -> list[str]:
    """Sign and hand in a Cancel; returns the orders it took off the book."""
    cancels, caller = world.catalog.cancels, world.caller(signer)
    with world.database.write() as store:
        message = cancels.prepare(store, caller, order_id)
        signed = world.signed(SignedCancel, signer, cancel=message)
        cancels.check(caller, signed)
        done = cancels.submit(store, caller, signed)
    world.match()
    world.chain.mine()
    return list(done.orders)


RESTING = {"start_deadline": "1h", "retry": {"on_events": ["no-capacity"], "duration": "1h"}}


def test_a_cancelled_ask_fills_nothing_and_is_void_on_chain(world: World) -> None:
    ask_id = world.offer()
    assert cancel(world, world.provider, ask_id) == [ask_id]
    assert world.chain.cancelled == {(world.provider.address, 0)}
    job_id = world.queue()
    assert world.job(job_id).state == "no_match"


def test_a_cancelled_bid_leaves_the_book_and_its_job_ends(world: World) -> None:
    world.fund()
    job_id = world.queue(**RESTING)
    assert cancel(world, world.buyer, job_id) == [world.job(job_id).bid_id]
    assert world.job(job_id).state == "cancelled"
    world.ask()
    world.match()
    assert world.job(job_id).lease_id is None


def test_a_bid_cancelled_while_it_runs_is_not_opened_again(world: World) -> None:
    world.offer()
    retry = {"on_events": ["interruption"], "duration": "1h"}
    job_id, lease_id = world.open(retry=retry)
    world.use(lease_id, 0, 0)
    world.ask()
    cancel(world, world.buyer, job_id)
    assert world.job(job_id).state in ("starting", "running")
    world.clock.advance(120)
    world.catalog.watchdog.tick()
    world.halt(lease_id)
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
    early = Cancel(world.provider.address, Numbered.ORDERS, 99, True)
    caller, cancels = world.caller(world.provider), world.catalog.cancels
    signed = world.signed(SignedCancel, world.provider, cancel=early)
    cancels.check(caller, signed)
    with world.database.write() as store, pytest.raises(InvalidInput):
        cancels.submit(store, caller, signed)
    job_id, _ = world.open()
    (lease,) = world.rows(LeaseRow, job_id=job_id)
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
            signed = world.signed(SignedCancel, signer, cancel=message)
            with pytest.raises(error):
                cancels.check(world.caller(caller), signed)
        for order_id in (ask_id, "job_none", None):
            with pytest.raises((NotFound, Conflict)):
                cancels.prepare(store, world.caller(world.stranger), order_id)


def test_a_cancel_of_signed_calls_is_not_the_markets_to_send(world: World) -> None:
    world.ask()
    calls = Cancel(world.provider.address, Numbered.CALLS, 0, False)
    signed = world.signed(SignedCancel, world.provider, cancel=calls)
    with pytest.raises(InvalidInput) as caught:
        world.catalog.cancels.check(world.caller(world.provider), signed)
    assert [problem.pointer for problem in caught.value.problems] == ["/cancel/kind"]


def submit(world: World, signer: LocalSigner, salt: int, *, and_older: bool = False) -> None:
    """Sign a Cancel that nobody wrote out, and hand it in."""
    message = Cancel(signer.address, Numbered.ORDERS, salt, and_older)
    signed = world.signed(SignedCancel, signer, cancel=message)
    world.catalog.cancels.check(world.caller(signer), signed)
    world.do(world.catalog.cancels.submit, signer, signed)


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
    _, lease_id = world.start()
    world.stop(lease_id)
    world.stop(lease_id)
    die(world, IntentKind.STOP)
    world.stop(lease_id)
    world.stop(lease_id)
    assert die(world, IntentKind.STOP) == f"stop:{lease_id}/2"
    world.halt(lease_id)
    assert world.lease(lease_id).state == "stopped"
    world.stop(lease_id)


def test_all_orders_are_cancelled_up_to_the_newest_that_is_left(world: World) -> None:
    world.ask()
    with world.database.write() as store:
        world.catalog.accounts.salt(store, world.provider.address)
        written = world.catalog.cancels.prepare(store, world.caller(world.provider), None)
    assert (written.salt, written.and_older) == (0, True)
