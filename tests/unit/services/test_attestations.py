"""Attestations: what is accepted, what is refused and recorded, what the witness's answer makes."""

from datetime import timedelta
from typing import Any

import pytest

from marketplace.db.tables import AttestationRow
from marketplace.errors import Conflict, InvalidInput, InvalidSignature, NotFound
from marketplace.services.attestations import REFUSED_KEPT, AttestationRefusal
from marketplace.services.views import heartbeat_view
from marketplace.wire.leases import Countersignature, Heartbeat, Pending, SignedAttestation
from settlement.attestation import Usage, UsageAttestation, voucher_for
from tests.databases import rows_of
from tests.market_world import World


@pytest.fixture
def lease_id(world: World) -> str:
    """An open lease without its ready reading."""
    return world.start()[1]


def rows(world: World, lease_id: str, **equal: Any) -> list[Any]:
    with world.database.read() as store:
        return rows_of(store, AttestationRow, lease_id=lease_id, **equal)


def test_the_ready_reading_starts_the_job_and_costs_nothing(world: World, lease_id: str) -> None:
    assert world.job(world.lease(lease_id).job_id).state == "starting"
    row, refusal = world.attest(lease_id, 0, 0, after=5)
    assert (row.state, refusal) == ("accepted", None)
    lease = world.lease(lease_id)
    assert (lease.ready_ms, lease.sequence) == (world.clock(), 0)
    assert world.job(lease.job_id).state == "running"


def test_the_same_attestation_again_is_the_same_attestation(world: World, lease_id: str) -> None:
    world.attest(lease_id, 0, 0)
    world.clock.advance(1)
    said = world.statement(lease_id, 1, 1_000)
    signed = world.signed(SignedAttestation, world.meter, attestation=said)
    seen = set()
    for _ in range(3):
        row, refusal = world.do(world.catalog.attestations.take, world.provider, lease_id, signed)
        seen.add((row.id, refusal))
    assert len(seen) == 1
    assert len(rows(world, lease_id)) == 2


def test_of_a_leases_refused_ones_the_newest_are_kept_and_all_are_counted(
    world: World, lease_id: str
) -> None:
    world.attest(lease_id, 0, 0)
    for number in range(REFUSED_KEPT + 5):
        assert world.attest(lease_id, number + 1, 10**9)[1] is AttestationRefusal.OUTSIDE
    kept = rows(world, lease_id, state="refused")
    assert [row.sequence for row in kept] == list(range(6, REFUSED_KEPT + 6))
    assert world.lease(lease_id).refused_count == REFUSED_KEPT + 5
    assert len(rows(world, lease_id, state="accepted")) == 1


@pytest.mark.parametrize(
    ("sequence", "ms", "changes", "reason"),
    [
        (1, 999, {}, AttestationRefusal.SEQUENCE),
        (0, 0, {"evidence": b"\x01" * 32}, AttestationRefusal.SEQUENCE),
        (2, 999, {}, AttestationRefusal.BACKWARDS),
        (2, 2_000, {"gpu_ms": 999}, AttestationRefusal.BACKWARDS),
        (2, 5_000, {}, AttestationRefusal.OUTSIDE),
        (2, 2_000, {"observed_at_ms": "+3000"}, AttestationRefusal.AHEAD),
        (2, 3_900, {"observed_at_ms": "-500"}, AttestationRefusal.AHEAD),
        (2, 2_000, {"buyer": "0x" + "77" * 20}, AttestationRefusal.PARTIES),
        (2, 2_000, {"provider": "0x" + "77" * 20}, AttestationRefusal.PARTIES),
        (2, 2_000, {"lease_no": bytes(16)}, AttestationRefusal.PARTIES),
    ],
)
def test_what_cannot_be_true_is_refused_and_recorded(
    world: World,
    lease_id: str,
    sequence: int,
    ms: int,
    changes: dict[str, Any],
    reason: AttestationRefusal,
) -> None:
    world.attest(lease_id, 0, 0)
    world.attest(lease_id, 1, 1_000, after=1)
    world.clock.advance(1)
    if isinstance(changes.get("observed_at_ms"), str):
        changes = {**changes, "observed_at_ms": world.clock() + int(changes["observed_at_ms"])}
    before = world.lease(lease_id)
    row, refusal = world.attest(lease_id, sequence, ms, **changes)
    assert refusal is reason
    stored = rows(world, lease_id, state="refused")
    assert [(r.id, r.code) for r in stored] == [(row.id, reason.value)]
    assert world.lease(lease_id) == before.model_copy(update={"refused_count": 1})


def test_another_key_than_the_meter_is_refused_and_recorded(world: World, lease_id: str) -> None:
    for signer in (world.witness, world.provider, world.stranger):
        _, refusal = world.attest(lease_id, 0, 0, signer)
        assert refusal is AttestationRefusal.SIGNATURE
    assert [r.code for r in rows(world, lease_id)] == ["invalid_signature"] * 3
    assert world.lease(lease_id).sequence == -1


def test_usage_before_the_ready_reading_is_refused(world: World, lease_id: str) -> None:
    world.clock.advance(1)
    for sequence, ms in ((1, 0), (0, 500), (1, 500)):
        assert world.attest(lease_id, sequence, ms)[1] is AttestationRefusal.NOT_READY


def test_a_ready_reading_after_the_start_limit_is_refused(world: World, lease_id: str) -> None:
    assert world.attest(lease_id, 0, 0, after=63)[1] is AttestationRefusal.LATE_START


def test_time_after_the_lease_ended_is_refused(world: World, lease_id: str) -> None:
    world.attest(lease_id, 0, 0)
    assert world.attest(lease_id, 1, 663_000, after=700)[1] is AttestationRefusal.OUTSIDE
    assert world.attest(lease_id, 1, 660_000)[1] is None


def test_a_lease_that_is_not_open_takes_no_attestation(world: World) -> None:
    world.offer()
    job_id = world.queue()
    lease_id = world.job(job_id).lease_id or ""
    assert world.attest(lease_id, 0, 0)[1] is AttestationRefusal.NOT_OPEN


def test_only_the_leases_provider_may_attest(world: World, lease_id: str) -> None:
    said = world.statement(lease_id, 0, 0)
    signed = world.signed(SignedAttestation, world.meter, attestation=said)
    for caller in (world.buyer, world.stranger):
        with pytest.raises(NotFound):
            world.do(world.catalog.attestations.take, caller, lease_id, signed)


def test_a_voucher_is_stored_as_the_best_and_never_falls(world: World, lease_id: str) -> None:
    world.attest(lease_id, 0, 0)
    answers = []
    for sequence in (1, 2, 3):
        world.clock.advance(1)
        answers.append(world.attest(lease_id, sequence, sequence * 1_000)[0])
    for row in (answers[1], answers[0], answers[2], answers[1]):
        world.countersign(row)
        best = world.row("vouchers", lease_id)
        assert best.ms >= 2_000
    assert (best.ms, best.attestation_id) == (3_000, answers[2].id)
    assert world.lease(lease_id).countersigned["ms"] == 3_000


def test_a_countersignature_must_say_what_the_attestation_says(world: World, lease_id: str) -> None:
    world.attest(lease_id, 0, 0)
    row, _ = world.attest(lease_id, 1, 2_000, after=2)
    said = UsageAttestation.from_message(row.message)
    right = voucher_for(said, metered=False)
    other = Usage(said.buyer, said.provider, said.lease_no, 1_999)
    countersign = world.catalog.attestations.countersign
    signed = world.signed(Countersignature, world.witness, voucher=other)
    with pytest.raises(InvalidInput):
        world.do(countersign, world.buyer, row.id, signed)
    with pytest.raises(InvalidSignature):
        world.countersign(row, world.meter)
    signed = world.signed(Countersignature, world.witness, voucher=right)
    with pytest.raises(NotFound):
        world.do(countersign, world.stranger, row.id, signed)
    refused, _ = world.attest(lease_id, 2, 0)
    with pytest.raises(Conflict):
        world.countersign(refused)
    with world.database.read() as store:
        assert store.vouchers.get(lease_id) is None


def test_a_pending_witness_sees_the_newest_statement_once(world: World, lease_id: str) -> None:
    world.attest(lease_id, 0, 0)
    row, _ = world.attest(lease_id, 1, 1_000, after=1)

    def pending(signer: Any) -> tuple[Pending, ...]:
        with world.database.read() as store:
            return world.catalog.leases.pending(store, world.caller(signer)).data

    (entry,) = pending(world.buyer)
    assert entry.attestation is not None
    assert entry.attestation.id == row.id
    assert pending(world.witness)[0].lease.id == lease_id
    assert pending(world.stranger) == ()
    world.countersign(row)
    assert pending(world.buyer)[0].attestation is None


def test_heartbeats_count_up_and_say_when_the_last_came(world: World, lease_id: str) -> None:
    def beat(count: int) -> Heartbeat:
        beaten = world.catalog.attestations.heartbeat
        return heartbeat_view(world.do(beaten, world.provider, lease_id, count))

    first = beat(1)
    world.clock.advance(5)
    assert beat(1) == first
    grown = beat(4)
    assert first.last_at is not None
    assert grown.last_at is not None
    assert (grown.count, grown.last_at - first.last_at) == (4, timedelta(seconds=5))
    assert beat(2).count == 4


def test_counted_usage_above_its_cap_is_refused(world: World) -> None:
    world.offer(prices={"unit": "0.001"}, unit="request")
    _, lease_id = world.open(units={"name": "request", "max": 10, "max_price": "0.01"})
    world.attest(lease_id, 0, 0)
    assert world.attest(lease_id, 1, 1_000, units=11, after=1)[1] is AttestationRefusal.CAP
    assert world.attest(lease_id, 1, 1_000, units=10)[1] is None
