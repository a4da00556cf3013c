"""How a lease is ended by signatures: the agent's report, the witness's Close, anyone's Stop."""

from dataclasses import dataclass

from marketplace.db.store import Store
from marketplace.db.tables import AttestationRow, LeaseRow, NodeRow
from marketplace.domain.advance import CloseSigned, NoticeGiven, RunReported, StopSigned
from marketplace.domain.life import (
    LEASE_OPEN,
    LEASE_OVER,
    REPORTABLE,
    Do,
    LeaseState,
    Outcome,
    RunReport,
    runs_again,
)
from marketplace.errors import Conflict, InvalidInput, InvalidSignature, NotFound, Problem
from marketplace.limits import REASON_CHARS_KEPT as REASON_MAX
from marketplace.limits import STOP_SECONDS_MAX
from marketplace.services.attestations import AttestationRefusal, Attestations
from marketplace.services.blobs import need_blob
from marketplace.services.common import Principal, check_signature, unhex
from marketplace.services.leases import buying_side, party, provider_of, ref_of, terms_hash_of
from marketplace.services.lives import Lives, retry_of
from marketplace.services.ports import Clock, Market
from marketplace.wire.base import hex_text
from marketplace.wire.leases import FinishReport, SignedAttestation, SignedStop
from settlement.attestation import Close, Stop, UsageAttestation
from settlement.chain.calls import EscrowCalls
from settlement.errors import SignatureError
from settlement.ports import IntentKind
from settlement.signing import recover

OVER_BUDGET_SLACK_INTERVALS = 2


@dataclass(frozen=True, slots=True)
class Ends:
    market: Market
    clock: Clock
    attestations: Attestations
    calls: EscrowCalls
    lives: Lives

    def finish(
        self, store: Store, caller: Principal, lease_id: str, report: FinishReport
    ) -> tuple[LeaseRow, AttestationRow, AttestationRefusal | None]:
        """Take in the last attestation, the outcome and the meter's half of the Close.

        The last attestation is recorded even if it is refused; then nothing else happens.
        Raises NotFound, InvalidInput, InvalidSignature, Conflict.
        """
        lease = provider_of(store, caller, lease_id)
        close, close_signature = report.close.message, report.close.signature
        self._check(store, lease, report, close)
        check_signature(close, close_signature, lease.meter, self.market)
        said = SignedAttestation(attestation=report.attestation, signature=report.signature)
        row, refusal = self.attestations.take(store, caller, lease_id, said)
        if refusal is not None:
            return lease, row, refusal
        last = UsageAttestation.from_message(row.message)
        counted = (last.egress_mib, last.units) if lease.metered else (0, 0)
        job = store.jobs.need(lease.job_id, lock=True)
        again = runs_again(retry_of(job.spec).on, report.outcome)
        names = (lease.buyer, lease.provider, lease.lease_bytes)
        if close != Close(*names, last.ms, *counted, again):
            value = str(again).lower()
            detail = f"must close at the last attestation's usage, with `again` {value}"
            raise InvalidInput([Problem("/close/message", detail)])
        lease.close = close.to_message()
        lease.meter_signature = hex_text(close_signature)
        lease.seen_ms = self.clock()
        reason = report.reason[:REASON_MAX] or None
        run = RunReport(report.outcome, reason, report.exit_code, report.outputs)
        self.lives.take(store, job, lease, RunReported(run))
        return lease, row, None

    def _check(self, store: Store, lease: LeaseRow, report: FinishReport, close: Close) -> None:
        if lease.state not in LEASE_OPEN:
            raise Conflict(f"the lease is {lease.state}; it takes no report")
        if lease.outcome is not None and close.to_message() != lease.close:
            raise Conflict("the lease has another final report already")
        if report.outcome not in REPORTABLE and lease.notice_ms is None:
            detail = f"must be one of {', '.join(REPORTABLE)}: no notice was given"
            raise InvalidInput([Problem("/outcome", detail)])
        slack_ms = OVER_BUDGET_SLACK_INTERVALS * lease.interval_ms
        reached = close.ms >= lease.paid_seconds * 1000 - slack_ms
        if report.outcome == Outcome.OVER_BUDGET and not (lease.budget_limited and reached):
            detail = "the budget did not limit this lease, or its paid time was not reached"
            raise InvalidInput([Problem("/outcome", detail)])
        if report.outputs is not None:
            need_blob(store, lease.provider, report.outputs, "/outputs")

    def close(self, store: Store, caller: Principal, lease_id: str, signature: bytes) -> LeaseRow:
        """Take the witness's half of the Close and send both to the chain. Raises NotFound,
        InvalidSignature, Conflict."""
        lease = buying_side(store, caller, lease_id)
        if lease.close is None:
            raise NotFound("the lease has no final report yet")
        message = Close.from_message(lease.close)
        check_signature(message, signature, lease.witness, self.market)
        job = store.jobs.need(lease.job_id, lock=True)
        left = self.lives.take(store, job, lease, CloseSigned())
        is_known = lease.witness_signature is not None
        if Do.SEND_CLOSE not in left or is_known or lease.meter_signature is None:
            return lease
        lease.witness_signature = hex_text(signature)
        lease.witness_ms = self.clock()
        terms = terms_hash_of(store, lease)
        of_meter = unhex(lease.meter_signature)
        data = self.calls.close(message, terms, of_meter, signature)
        store.enqueue(IntentKind.CLOSE, f"close:{lease.id}", self.calls.payload(data))
        return lease

    def stop(self, store: Store, caller: Principal, lease_id: str, signed: SignedStop) -> LeaseRow:
        """Send a Stop signed by witness or meter to the chain. One that says again also marks a
        lease that is over. Raises NotFound, InvalidInput, InvalidSignature, Conflict."""
        lease = party(store, caller, lease_id, lock=True)
        if caller.account not in (lease.buyer, lease.provider, lease.witness):
            raise NotFound("no such lease")
        stop, signature = signed.stop, signed.signature
        if (stop.buyer, stop.provider, stop.lease_no) != ref_of(lease).unwitnessed:
            raise InvalidInput([Problem("/stop", "names another lease")])
        now_s = self.clock() // 1000
        if not now_s < stop.deadline <= now_s + STOP_SECONDS_MAX:
            detail = f"must lie ahead, at most {STOP_SECONDS_MAX} s"
            raise InvalidInput([Problem("/stop/deadline", detail)])
        try:
            signer = recover(stop, self.market.domain, signature)
        except SignatureError as error:
            problem = Problem("/signature", str(error))
            raise InvalidSignature(str(error), problems=[problem]) from error
        if signer != lease.witness and (stop.again or signer != lease.meter):
            who = "not its witness" if stop.again else "neither its witness nor its meter"
            detail = f"signed by {signer}, which is {who}"
            raise InvalidSignature(detail, problems=[Problem("/signature", detail)])
        if stop.again and lease.state in LEASE_OVER:
            tries = store.tries(f"again:{lease.id}")
            if not lease.again and tries.is_free:
                self._send_stop(store, lease, stop, signature, tries.key)
            return lease
        tries = store.tries(f"stop:{lease.id}")
        died = tries.is_free and lease.state is LeaseState.ACTIVE
        if lease.stop_signature is not None and not died:
            return lease
        job = store.jobs.need(lease.job_id, lock=True)
        fact = StopSigned(by_meter=signer == lease.meter)
        if Do.SEND_STOP not in self.lives.take(store, job, lease, fact):
            return lease
        lease.stop_signature = hex_text(signature)
        self._send_stop(store, lease, stop, signature, tries.key)
        return lease

    def give_notice(self, store: Store, node: NodeRow) -> None:
        """Give the node's interruptible leases their notice: it is taken back after that."""
        for lease_id in store.leases.going_on(node.id):
            lease = store.leases.need(lease_id, lock=True)
            if lease.notice_seconds is not None:
                job = store.jobs.need(lease.job_id, lock=True)
                self.lives.take(store, job, lease, NoticeGiven())

    def _send_stop(
        self, store: Store, lease: LeaseRow, stop: Stop, signature: bytes, key: str
    ) -> None:
        terms = terms_hash_of(store, lease)
        data = self.calls.stop_by_signature(ref_of(lease), stop, terms, signature)
        store.enqueue(IntentKind.STOP, key, self.calls.payload(data))
