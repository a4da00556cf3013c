"""Attestations: taken in from the meter, refused with a reason, answered by the witness."""

from dataclasses import asdict, dataclass
from enum import StrEnum

from marketplace.db.store import Store
from marketplace.db.tables import AttestationRow, LeaseRow, VoucherRow
from marketplace.domain.advance import UsageAttested
from marketplace.domain.life import LEASE_OPEN
from marketplace.errors import AttestationRefused, Conflict, InvalidInput, NotFound, Problem
from marketplace.services.common import Principal, check_signature, emit, new_id
from marketplace.services.leases import buying_side, provider_of, usage_json
from marketplace.services.lives import Lives, cost_event
from marketplace.services.ports import Clock, Market
from marketplace.wire.base import hex_text
from marketplace.wire.jobs import JobMetric
from marketplace.wire.leases import Countersignature, SignedAttestation
from settlement.attestation import MeteredUsage, UsageAttestation, voucher_for
from settlement.errors import SignatureError
from settlement.signing import verify
from settlement.usage import UsageVector

TOLERANCE_MS = 2_000
REFUSED_KEPT = 20  # the newest of a lease: enough to see what its meter does wrong


class AttestationRefusal(StrEnum):
    """Why an attestation is refused. Stable."""

    meaning: str

    def __new__(cls, code: str, meaning: str) -> "AttestationRefusal":
        """A code and what it means."""
        member = str.__new__(cls, code)
        member._value_, member.meaning = code, meaning
        return member

    SIGNATURE = "invalid_signature", "it was not signed by the ask's meter key"
    PARTIES = "wrong_parties", "it names other parties or another lease"
    NOT_OPEN = "not_open", "the lease is not open on chain"
    NOT_READY = "not_ready", "the first attestation must be ready: sequence 0, 0 ms"
    LATE_START = "start_limit_passed", "the start limit had passed before the job was ready"
    SEQUENCE = "sequence_used", "its sequence number was used with other content"
    BACKWARDS = "backwards", "cumulative usage or the sequence went back"
    AHEAD = (
        "ahead_of_clock", "it is ahead of the server's clock, or of the job's time since ready"
    )  # fmt: skip
    OUTSIDE = "outside_lease", "it states more time than the lease has been open"
    CAP = "above_cap", "counted usage is above its cap"


def refused(reason: AttestationRefusal, row: AttestationRow) -> AttestationRefused:
    """The error that answers a refused attestation, whose row stays recorded."""
    facts = {"reason": reason.value, "attestation_id": row.id, "sequence": row.sequence}
    return AttestationRefused(f"attestation refused: {reason.meaning}", facts=facts)


@dataclass(frozen=True, slots=True)
class Attestations:
    market: Market
    clock: Clock
    lives: Lives

    def take(
        self, store: Store, caller: Principal, lease_id: str, signed: SignedAttestation
    ) -> tuple[AttestationRow, AttestationRefusal | None]:
        """Record an attestation, accepted or refused; the caller commits before it answers. The
        same content again is the same attestation. Raises NotFound."""
        lease = provider_of(store, caller, lease_id)
        statement = signed.attestation
        known = store.attestations.accepted(lease.id, statement.sequence)
        if known is not None and known.message == statement.to_message():
            return known, None
        now_ms = self.clock()
        reason = AttestationRefusal.SEQUENCE if known else self._refusal(lease, signed, now_ms)
        row = AttestationRow(
            id=new_id("att"),
            lease_id=lease.id,
            sequence=statement.sequence,
            state="accepted" if reason is None else "refused",
            code=reason.value if reason else None,
            ms=statement.ms,
            message=statement.to_message(),
            signature=hex_text(signed.signature),
            received_ms=now_ms,
        )
        store.attestations.add(row)
        if reason is None:
            self._accept(store, lease, statement, now_ms)
        else:  # a provider that repeats itself does not fill the table
            lease.refused_count += 1
            store.attestations.forget_refused(lease.id, REFUSED_KEPT)
        return row, reason

    def _refusal(
        self, lease: LeaseRow, signed: SignedAttestation, now_ms: int
    ) -> AttestationRefusal | None:
        said = signed.attestation
        parties = (lease.buyer, lease.provider, lease.lease_bytes)
        if (said.buyer, said.provider, said.lease_no) != parties:
            return AttestationRefusal.PARTIES
        try:
            verify(said, self.market.domain, signed.signature, lease.meter)
        except SignatureError:
            return AttestationRefusal.SIGNATURE
        if lease.state not in LEASE_OPEN or lease.start_s is None:
            return AttestationRefusal.NOT_OPEN
        if lease.sequence < 0 and (said.sequence, said.ms) != (0, 0):
            return AttestationRefusal.NOT_READY
        if said.sequence <= lease.sequence or not said.usage().covers(
            UsageVector(**lease.attested)
        ):
            return AttestationRefusal.BACKWARDS
        if lease.metered and (
            said.egress_mib > lease.egress_cap_mib or said.units > lease.units_cap
        ):
            return AttestationRefusal.CAP
        return self._refuse_time(lease, said, now_ms)

    def _refuse_time(
        self, lease: LeaseRow, said: UsageAttestation, now_ms: int
    ) -> AttestationRefusal | None:
        start_ms, end_ms = (lease.start_s or 0) * 1000, (lease.end_s or 0) * 1000
        if said.observed_at_ms > now_ms + TOLERANCE_MS:
            return AttestationRefusal.AHEAD
        limit_ms = start_ms + lease.start_limit_seconds * 1000
        if lease.ready_ms is None and min(now_ms, said.observed_at_ms) > limit_ms + TOLERANCE_MS:
            return AttestationRefusal.LATE_START
        if said.ms > min(now_ms, end_ms) - start_ms + TOLERANCE_MS:
            return AttestationRefusal.OUTSIDE
        ready_ms = said.observed_at_ms if lease.ready_ms is None else lease.ready_ms
        if said.ms > said.observed_at_ms - ready_ms + TOLERANCE_MS:
            return AttestationRefusal.AHEAD
        return None

    def _accept(self, store: Store, lease: LeaseRow, said: UsageAttestation, now_ms: int) -> None:
        lease.sequence = said.sequence
        lease.attested = asdict(said.usage())
        lease.seen_ms = now_ms
        job = store.jobs.need(lease.job_id, lock=True)
        self.lives.take(store, job, lease, UsageAttested(said.observed_at_ms))
        metric = JobMetric(lease_id=lease.id, sequence=said.sequence, **lease.attested)
        emit(store, job.id, "metric", metric, now_ms)
        cost_event(store, self.market, job, lease, now_ms)

    def countersign(
        self, store: Store, caller: Principal, attestation_id: str, signed: Countersignature
    ) -> AttestationRow:
        """Store the witness's voucher for an accepted attestation; the best one is what settles.
        Raises NotFound, Conflict, InvalidInput, InvalidSignature."""
        row = store.attestations.get(attestation_id, lock=True)
        lease = buying_side(store, caller, row.lease_id) if row else None
        if row is None or lease is None:
            raise NotFound("no such attestation")
        if row.state != "accepted":
            raise Conflict("a refused attestation takes no countersignature")
        if lease.state not in LEASE_OPEN:
            raise Conflict(f"the lease is {lease.state}; it takes no vouchers")
        voucher, signature = signed.voucher, signed.signature
        expected = voucher_for(UsageAttestation.from_message(row.message), lease.metered)
        if voucher != expected:
            detail = "must state exactly what the attestation does"
            raise InvalidInput([Problem("/voucher", detail)])
        check_signature(voucher, signature, lease.witness, self.market)
        if row.voucher_signature is None:
            row.voucher = voucher.to_message()
            row.voucher_signature = hex_text(signature)
            self._keep_best(store, lease, row.id, signed)
        return row

    def _keep_best(
        self, store: Store, lease: LeaseRow, attestation_id: str, signed: Countersignature
    ) -> None:
        now_ms = self.clock()
        voucher = signed.voucher
        counted = (
            (voucher.egress_mib, voucher.units) if isinstance(voucher, MeteredUsage) else (0, 0)
        )
        best = store.vouchers.get(lease.id, lock=True)
        lease.witness_ms = now_ms
        if best is not None and (best.ms, best.egress_mib, best.units) >= (voucher.ms, *counted):
            return
        lease.countersigned = usage_json(voucher.ms, *counted)
        new = VoucherRow(
            lease_id=lease.id,
            attestation_id=attestation_id,
            ms=voucher.ms,
            egress_mib=counted[0],
            units=counted[1],
            signature=hex_text(signed.signature),
            received_ms=now_ms,
            paid=voucher.ms == 0 and counted == (0, 0),
            intent=best.intent if best else None,
        )
        store.vouchers.put(new)

    def heartbeat(self, store: Store, caller: Principal, lease_id: str, count: int) -> LeaseRow:
        """Forward a job's signs of life; the count never falls."""
        lease = provider_of(store, caller, lease_id)
        lease.seen_ms = self.clock()
        if count > lease.heartbeat_count or lease.heartbeat_ms is None:
            lease.heartbeat_count = max(count, lease.heartbeat_count)
            lease.heartbeat_ms = lease.seen_ms
        return lease
