"""Reconciliation against Anvil: an honest life has no findings, and every lie is found."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from marketplace.db.outbox import SqlOutbox
from settlement.events import Deposited, Opened, PurseFunded, PurseSwept, Relayed
from settlement.indexer import Indexer
from settlement.ports import IntentKind
from settlement.reconcile import Finding, FindingKind, reconcile, stuck_intents
from settlement.signing import sign
from tests.databases import sqlite_database
from tests.escrow_world import SETTINGS, TOKEN, Lease, World
from tests.fakes_settlement import MemoryEvents


def findings(
    world: World, store: MemoryEvents, running: set[bytes] | None = None
) -> list[tuple[FindingKind, str]]:
    report = reconcile(store, world.escrow, world.token, running or set())
    return [(finding.kind, finding.subject) for finding in report.findings]


def read(world: World) -> MemoryEvents:
    store = MemoryEvents()
    Indexer(store, world.escrow, world.deployment.block).tick()
    return store


def alter(store: MemoryEvents, kind: type, **changes: object) -> None:
    """Falsify the first stored event of a kind."""
    at = next(i for i, e in enumerate(store.logged) if isinstance(e.event, kind))
    wrong = replace(store.logged[at].event, **changes)  # type: ignore[arg-type]
    store.logged[at] = replace(store.logged[at], event=wrong)


def name(lease: Lease) -> str:
    return "0x" + lease.number.hex()


def test_an_honest_life_has_no_findings(world: World) -> None:
    one, two = world.open(), world.open(world.match(bid=world.metered_bid()))
    world.chain.warp(100)
    calls = world.escrow.calls
    world.settle(one.voucher(50_000))
    world.settle(two.metered(60_000, 9, 8))
    world.send(world.relayer, one.close(70_000))
    world.send(world.relayer, calls.collect_fees([world.provider.address]))
    world.send(world.provider, calls.withdraw(world.provider.address, 5))
    report = reconcile(read(world), world.escrow, world.token, {two.number})
    assert report.findings == ()
    assert (report.leases, report.block_number) == (2, world.client.head().number)
    assert report.accounts == 3


@pytest.fixture
def relayed(world: World) -> World:
    """A purse that is funded, spent from, topped up by its owner's signature and swept, and a
    withdrawal by signature: the relayer sent both for a fee."""
    operator, calls, domain = world.stranger, world.escrow.calls, world.escrow.domain()
    purse = world.purse(operator, 50 * TOKEN)
    world.send(world.buyer, calls.fund_purse(purse, 7 * TOKEN))
    bid = world.bid(buyer=purse)
    match = replace(world.match(bid=bid), bid_signature=sign(bid, domain, operator))
    lease = world.open(match)
    world.send(world.relayer, lease.top_up(60, fee=3))
    world.chain.warp(100)
    world.settle(lease.voucher(50_000))
    world.send(world.relayer, lease.close(70_000))
    world.send(world.buyer, calls.sweep_purse(purse, TOKEN))
    world.send(world.buyer, calls.expire_purse(purse, 1))
    world.send(world.relayer, world.withdrawal(100, world.provider.address, fee=5))
    return world


def test_purses_and_relayed_calls_have_no_findings(relayed: World) -> None:
    report = reconcile(read(relayed), relayed.escrow, relayed.token, set())
    assert report.findings == ()
    assert relayed.escrow.balance_of(relayed.relayer.address) == 3 + 5


@pytest.mark.parametrize(
    ("kind", "changes"),
    [(Relayed, {"fee": 4}), (PurseFunded, {"amount": 1}), (PurseSwept, {"amount": 1})],
)
def test_what_a_purse_or_a_relay_moved_is_compared_to_the_atom(
    relayed: World, kind: type, changes: dict[str, int]
) -> None:
    store = read(relayed)
    alter(store, kind, **changes)
    assert {found for found, _ in findings(relayed, store)} == {FindingKind.BALANCE_DIFFERS}


def test_an_empty_store_has_nothing_to_compare(world: World) -> None:
    report = reconcile(MemoryEvents(), world.escrow, world.token, set())
    assert (report.block_number, report.findings) == (-1, ())


def test_a_wrong_lease_in_the_store_is_found(world: World) -> None:
    lease = world.open()
    store = read(world)
    alter(store, Opened, rate=lease.opened.rate + 1)
    assert findings(world, store, {lease.number}) == [
        (FindingKind.LEASE_DIFFERS, name(lease)),
        (FindingKind.HOLDINGS_SHORT, world.escrow.address),
    ]


def test_a_missed_deposit_is_found(world: World) -> None:
    store = read(world)
    alter(store, Deposited, amount=9_999 * TOKEN)
    assert findings(world, store) == [(FindingKind.BALANCE_DIFFERS, world.buyer.address)]


def test_an_event_counted_twice_is_found(world: World) -> None:
    store = read(world)
    store.logged.append(store.logged[0])
    kinds = {kind for kind, _ in findings(world, store)}
    assert kinds == {FindingKind.BALANCE_DIFFERS, FindingKind.HOLDINGS_SHORT}


def test_a_wrong_capacity_in_the_store_is_found(world: World) -> None:
    lease = world.open()
    store = read(world)
    alter(store, Opened, gpu_milli=2_000)
    assert (FindingKind.CAPACITY_DIFFERS, f"{world.provider.address}/1") in findings(
        world, store, {lease.number}
    )


def test_a_job_on_no_lease_and_a_lease_without_a_job_are_found(world: World) -> None:
    idle, stopped = world.open(), world.open()
    world.send(world.buyer, world.escrow.calls.stop(stopped.ref))
    unknown = b"\x01" * 16
    assert set(findings(world, read(world), {stopped.number, unknown})) == {
        (FindingKind.RUNNING_WITHOUT_LEASE, name(stopped)),
        (FindingKind.RUNNING_WITHOUT_LEASE, "0x" + unknown.hex()),
        (FindingKind.LEASE_WITHOUT_JOB, name(idle)),
    }


def test_a_due_refund_is_found(world: World) -> None:
    lease = world.open(world.match(bid=world.bid(max_seconds=60)))
    world.chain.warp(60 + SETTINGS.settle_window)
    assert findings(world, read(world)) == []
    world.chain.warp(1)
    assert findings(world, read(world)) == [(FindingKind.REFUND_DUE, name(lease))]
    world.send(world.stranger, world.escrow.calls.refund(lease.ref))
    assert findings(world, read(world)) == []


@pytest.fixture
def outbox() -> Iterator[SqlOutbox]:
    with sqlite_database() as database:
        yield SqlOutbox(database)


def test_an_intent_that_waits_too_long_is_found(outbox: SqlOutbox) -> None:
    intent = outbox.enqueue(IntentKind.CLOSE, "close-1", {"to": "0x", "data": "0x"})
    outbox.note_attempt(intent.id, "UsageAheadOfTime(1, 2)")
    soon, late = (datetime.now(UTC) + timedelta(seconds=s) for s in (10, 100))
    limit = timedelta(seconds=60)
    assert stuck_intents(outbox.pending(10), soon, limit) == []
    found = "pending after 100 s: UsageAheadOfTime(1, 2)"
    assert stuck_intents(outbox.pending(10), late, limit) == [
        Finding(FindingKind.INTENT_STUCK, "close-1", "final within 60 s", found)
    ]


def test_an_old_intent_that_is_over_is_not_stuck(outbox: SqlOutbox) -> None:
    final, dead = (
        outbox.enqueue(IntentKind.CLOSE, key, {"to": "0x", "data": "0x"}).id for key in ("f", "d")
    )
    outbox.mark_signed(final, "0x01", 0, b"", "0x02")
    outbox.mark_confirmed(final, "0x02", 1, "0x03")
    late = datetime.now(UTC) + timedelta(seconds=100)
    assert len(stuck_intents(outbox.recent(9), late, timedelta(seconds=60))) == 2
    outbox.mark_final(final)
    outbox.mark_dead(dead, "refused")
    assert stuck_intents(outbox.recent(9), late, timedelta(seconds=60)) == []
