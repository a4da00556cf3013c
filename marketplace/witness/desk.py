"""The witness at work: it admits leases, watches them, and signs what the policy lets through.

No network here. Whoever fetches what is pending hands it over as plain values and sends on what
comes back.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from marketplace.domain.life import Outcome, StopReason, runs_again
from marketplace.limits import STOP_SECONDS
from marketplace.witness.journal import Checkpoint, WitnessJournal, WitnessJournalConflict
from marketplace.witness.policy import (
    LeaseWatch,
    Mark,
    Papers,
    WitnessRefusal,
    first_watch,
    judge_lease,
    judge_opened,
    judge_usage,
)
from settlement.attestation import Close, MeteredUsage, Stop, UsageAttestation, Voucher, voucher_for
from settlement.consent import OPENED_BIDS, AccountReads, require_consent
from settlement.eip712 import Domain, checksum
from settlement.errors import ChainError, SignatureError
from settlement.leases import Shows
from settlement.signing import Signer, sign, verify

SAVE_EVERY_MS = 1_000
CANCELLED, RETRY = StopReason.CANCELLED, StopReason.RETRY


@dataclass(slots=True)
class _Case:
    """One admitted lease: `origin` is the monotonic time at which its watch stood at zero."""

    papers: Papers
    origin_ms: int | None = None
    alive_ms: int = 0
    heartbeats: int = 0
    saved_ms: int = 0
    stop_asked_ms: int | None = None

    def runs_again(self, outcome: Outcome | None) -> bool:
        """Whether the job goes on after such an end, by its own terms."""
        return runs_again(self.papers.spec.retry_on, outcome)


@dataclass(frozen=True, slots=True)
class WitnessClock:
    """Two clocks: one that only runs forward, and the wall's for the gap of a restart."""

    monotonic_ms: Callable[[], int] = field(default=lambda: time.monotonic_ns() // 1_000_000)
    unix_ms: Callable[[], int] = field(default=lambda: time.time_ns() // 1_000_000)


class Desk:
    """Signs for one witness key, for bids of the given buyers only (none given: of its own)."""

    def __init__(
        self,
        signer: Signer,
        domain: Domain,
        journal: WitnessJournal,
        buyers: Iterable[str],
        clock: WitnessClock | None = None,
        reads: AccountReads | None = None,
        shows: Shows | None = None,
    ) -> None:
        """Without `reads`, no contract and no purse is a buyer: only keys sign. Without `shows`,
        the market's word counts for what was opened on chain."""
        self._reads = reads
        self._shows = shows
        self.signer = signer
        self.domain = domain
        self.buyers = frozenset(checksum(buyer) for buyer in buyers)
        self._journal = journal
        self._clock = clock or WitnessClock()
        self._lock = threading.Lock()
        self._cases: dict[bytes, _Case] = {}
        self._refused: dict[bytes, WitnessRefusal] = {}

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def witness_for(self, buyers: Iterable[str]) -> None:
        """Sign for bids of these buyers, too."""
        added = frozenset(checksum(buyer) for buyer in buyers) - self.buyers
        if added:
            self.buyers |= added
            self._refused.clear()

    def knows(self, lease_no: bytes) -> bool:
        """Whether a lease is admitted."""
        return lease_no in self._cases

    def refused(self, lease_no: bytes) -> WitnessRefusal | None:
        """Why a lease was not admitted; signed orders do not change, so asking again is no use."""
        return self._refused.get(lease_no)

    def mark(self, lease_no: bytes) -> Mark:
        """The most signed so far on a lease."""
        return self._journal.mark(lease_no)

    def admit(self, papers: Papers) -> WitnessRefusal | None:
        """Take on a lease if its bid is signed by a buyer of ours and binds exactly this lease, and
        if the chain shows it so. A lease that was taken on is not looked up again."""
        refusal = self._admit(papers)
        passing = refusal in (WitnessRefusal.UNCHECKED_LEASE, WitnessRefusal.NOT_ON_CHAIN)
        unasked = refusal is WitnessRefusal.UNCHECKED_BUYER and self._reads is not None
        if refusal is not None and not (passing or unasked):  # the chain may answer next time
            self._refused[papers.lease_no] = refusal
        return refusal

    def dismiss(self, lease_no: bytes, refusal: WitnessRefusal) -> None:
        """Sign nothing more on a lease: what the market says of it is impossible."""
        self._cases.pop(lease_no, None)
        self._refused[lease_no] = refusal

    def _admit(self, papers: Papers) -> WitnessRefusal | None:
        if papers.bid.buyer not in self.buyers:
            return WitnessRefusal.UNKNOWN_JOB
        refusal = judge_lease(papers, self.signer.address) or self._judge_signature(papers)
        return refusal or self._look_up(papers)

    def _judge_signature(self, papers: Papers) -> WitnessRefusal | None:
        bid = papers.bid
        signed = (bid, self.domain, papers.bid_signature, bid.buyer)
        try:
            require_consent(*signed, self._reads, OPENED_BIDS, now=0)
        except ChainError:
            return WitnessRefusal.UNCHECKED_BUYER
        except SignatureError:
            known = self._reads is not None
            return WitnessRefusal.BAD_SIGNATURE if known else WitnessRefusal.UNCHECKED_BUYER
        return None

    def _look_up(self, papers: Papers) -> WitnessRefusal | None:
        """Take on a lease as the chain shows it, if there is a node to ask."""
        if self._shows is not None:
            bid = papers.bid
            try:
                shown = self._shows(bid.buyer, papers.ask.provider, bid.witness, papers.lease_no)
            except ChainError:
                return WitnessRefusal.UNCHECKED_LEASE
            refusal = judge_opened(papers, shown)
            if refusal is not None:
                return refusal
            papers = replace(papers, opened_unix=shown.start)
        self._cases[papers.lease_no] = _Case(papers)
        return None

    def adopt(
        self, lease_no: bytes, sequence: int, voucher: Voucher, signature: bytes
    ) -> WitnessRefusal | None:
        """Learn from an own voucher for an admitted lease that this journal has forgotten.

        The market hands it in, so it must say itself which lease it is for: one for another lease
        would raise this mark, and with it what the first watch believes. That the lease names this
        witness was checked when it was admitted.
        """
        case = self._cases.get(lease_no)
        if case is None:
            return WitnessRefusal.UNKNOWN_JOB
        if voucher.lease_no != lease_no:
            return WitnessRefusal.OTHER_LEASE
        if (voucher.buyer, voucher.provider) != (case.papers.bid.buyer, case.papers.ask.provider):
            return WitnessRefusal.OTHER_PARTIES
        try:
            verify(voucher, self.domain, signature, self.signer.address)
        except SignatureError:
            return WitnessRefusal.BAD_SIGNATURE
        counted = (voucher.egress_mib, voucher.units) if isinstance(voucher, MeteredUsage) else ()
        self._journal.adopt(lease_no, Mark(sequence, voucher.ms, *counted))
        return None

    def countersign(
        self, reading: UsageAttestation, meter_signature: bytes, heartbeats: int
    ) -> tuple[Voucher, bytes] | WitnessRefusal:
        """Answer an attestation with a voucher, put down before it is signed, or a refusal."""
        # A reading may be old when it comes, as after an outage: the job has run on since.
        age_ms = max(0, self._clock.unix_ms() - reading.observed_at_ms)
        judged = self._judge(reading, meter_signature, heartbeats, age_ms)
        if isinstance(judged, WitnessRefusal):
            return judged
        bid = judged.papers.bid
        voucher = voucher_for(reading, metered=bid.egress_mib > 0 or bid.units > 0)
        mark = Mark(reading.sequence, reading.ms, reading.egress_mib, reading.units)
        try:
            self._journal.record(reading.lease_no, mark, voucher.to_message())
        except WitnessJournalConflict:
            return WitnessRefusal.SEQUENCE_USED
        return voucher, sign(voucher, self.domain, self.signer)

    def sign_close(
        self, close: Close, meter_signature: bytes, heartbeats: int, outcome: Outcome | None
    ) -> bytes | WitnessRefusal:
        """Sign the end of a lease, put down before it is signed, or refuse.

        `outcome` is what the agent reports; only the job's own retry terms make it count.
        """
        judged = self._judge(close, meter_signature, heartbeats)
        if isinstance(judged, WitnessRefusal):
            return judged
        if close.again is not (outcome is not None and judged.runs_again(outcome)):
            return WitnessRefusal.AGAIN_DIFFERS
        final = Mark(0, close.ms, close.egress_mib, close.units)
        try:
            self._journal.record_close(close.lease_no, final, close.to_message())
        except WitnessJournalConflict:
            return WitnessRefusal.ALREADY_CLOSED
        return sign(close, self.domain, self.signer)

    def _judge(
        self, usage: UsageAttestation | Close, signature: bytes, heartbeats: int, age_ms: int = 0
    ) -> _Case | WitnessRefusal:
        """The lease of usage that its meter signed and that agrees with what was seen here.

        What was signed before is not judged again: the journal compares it.
        """
        case = self._cases.get(usage.lease_no)
        if case is None:
            return WitnessRefusal.UNKNOWN_JOB
        try:
            verify(usage, self.domain, signature, case.papers.ask.meter)
        except SignatureError:
            return WitnessRefusal.BAD_SIGNATURE
        mark = self._journal.mark(usage.lease_no)
        watch = self._observe(usage.lease_no, case, usage.ms + age_ms, heartbeats)
        if isinstance(usage, UsageAttestation) and usage.sequence == mark.sequence:
            return case
        return judge_usage(case.papers, mark, watch, usage) or case

    def sign_stop(
        self, lease_no: bytes, reason: str, outcome: Outcome | None
    ) -> tuple[Stop, bytes] | WitnessRefusal:
        """Sign the stop of a lease: it ends now and what is not used is freed.

        If the job is to go on after such an end (`outcome` as its agent reports it, None: lost),
        the Stop lets its bid open again, which is all that it does to a lease that is over.
        A cancelled job is first given the time in which its agent ends it with a Close, which costs
        one transaction less and pays what ran.
        """
        case = self._cases.get(lease_no)
        if case is None:
            return WitnessRefusal.UNKNOWN_JOB
        now = self._clock.monotonic_ms()
        case.stop_asked_ms = now if case.stop_asked_ms is None else case.stop_asked_ms
        if reason == CANCELLED and now - case.stop_asked_ms < case.papers.unseen_ms:
            return WitnessRefusal.NOT_YET
        done = reason == CANCELLED or self._journal.is_done(lease_no)
        again = not done and case.runs_again(outcome)
        if reason == RETRY and not again:
            return WitnessRefusal.NOT_RETRIED
        deadline = self._clock.unix_ms() // 1000 + STOP_SECONDS
        bid, ask = case.papers.bid, case.papers.ask
        stop = Stop(bid.buyer, ask.provider, lease_no, again, deadline)
        return stop, sign(stop, self.domain, self.signer)

    def watch(self, lease_no: bytes, heartbeats: int) -> None:
        """Note signs of life between attestations; the watch itself starts with the first one."""
        case = self._cases.get(lease_no)
        if case is not None and case.origin_ms is not None:
            self._observe(lease_no, case, 0, heartbeats)

    def _observe(self, lease_no: bytes, case: _Case, stated_ms: int, heartbeats: int) -> LeaseWatch:
        """The watch now. It starts, or goes on after a restart, when a lease is first seen here."""
        with self._lock:
            now = self._clock.monotonic_ms()
            if case.origin_ms is None:
                watch = self._resume(lease_no, case, stated_ms)
                case.origin_ms, case.alive_ms = now - watch.elapsed_ms, watch.alive_ms
                case.saved_ms = -SAVE_EVERY_MS
            elapsed = now - case.origin_ms
            if heartbeats > case.heartbeats:
                case.heartbeats, case.alive_ms = heartbeats, elapsed
            if elapsed - case.saved_ms >= SAVE_EVERY_MS:
                case.saved_ms = elapsed
                unix_ms = self._clock.unix_ms()
                point = Checkpoint(elapsed, case.alive_ms, case.heartbeats, unix_ms)
                self._journal.save(lease_no, point)
            return LeaseWatch(elapsed, case.alive_ms)

    def _resume(self, lease_no: bytes, case: _Case, stated_ms: int) -> LeaseWatch:
        unix_ms = self._clock.unix_ms()
        saved = self._journal.checkpoint(lease_no)
        if saved is None:
            mark = self._journal.mark(lease_no)
            since_opened = unix_ms - case.papers.opened_unix * 1000
            return first_watch(case.papers, mark, stated_ms, since_opened)
        case.heartbeats = saved.heartbeats
        gap = max(0, unix_ms - saved.at_unix_ms)
        return LeaseWatch(saved.elapsed_ms + gap, saved.alive_ms)
