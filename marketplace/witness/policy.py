"""What a witness signs and what it refuses: pure rules, no clock, no store, no network.

The witness knows three things for sure: the bid its buyer signed, with its job, the ask and the
prices that a lease number is bound to, and how long it has itself watched the job live. With a node
of the chain it also knows what was opened. Everything the market says beyond that is checked
against them, or no signature depends on it. Times are in milliseconds.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from marketplace.domain.job import JobSpec
from marketplace.limits import WITNESSED_INTERVAL_MS_MAX
from settlement.attestation import Close, UsageAttestation
from settlement.errors import FieldError
from settlement.leases import LeaseView, Unlike, unlike
from settlement.orders import Ask, Bid, OpenedFrom, Prices
from settlement.silence import silence_ms, unseen_ms

TOLERANCE_MS = 3_000
DRIFT_PER_MS = 5_000  # one ms of tolerance per 5 s watched: two honest clocks drift apart


class WitnessRefusal(StrEnum):
    """Why a witness does not sign; stable codes."""

    UNKNOWN_JOB = "unknown_job"
    NOT_OUR_WITNESS = "not_our_witness"
    OTHER_PARTIES = "other_parties"
    OTHER_LEASE = "other_lease"
    ABOVE_LIMIT = "above_limit"
    BAD_SIGNATURE = "bad_signature"
    UNCHECKED_BUYER = "unchecked_buyer"  # not its key's signature, and no chain to ask its contract
    WENT_BACK = "went_back"
    AHEAD_OF_CLOCK = "ahead_of_clock"
    NO_HEARTBEAT = "no_heartbeat"
    ABOVE_CAP = "above_cap"
    SEQUENCE_USED = "sequence_used"
    ALREADY_CLOSED = "already_closed"
    NOT_YET = "not_yet"
    OTHER_JOB = "other_job"  # not the one whose hash the bid has
    AGAIN_DIFFERS = "again_differs"  # the job's retry terms say otherwise
    NOT_RETRIED = "not_retried"
    # What the witness's own node of the chain shows, compared with the signed orders
    UNCHECKED_LEASE = "unchecked_lease"  # the node gives no answer
    NOT_ON_CHAIN = Unlike.NOT_ON_CHAIN.value
    CHAIN_RATE = Unlike.RATE.value
    CHAIN_PAID_TIME = Unlike.PAID_TIME.value
    CHAIN_START_LIMIT = Unlike.START_LIMIT.value
    CHAIN_NODE = Unlike.NODE.value
    CHAIN_GPUS = Unlike.GPUS.value
    CHAIN_COUNTED = Unlike.COUNTED.value


@dataclass(frozen=True, slots=True)
class Papers:
    """A lease as the market describes it, with its signed orders.

    Nothing in it is believed before `judge_lease` and the check of the bid's signature. `prices`
    are the ones that it executes at, `spec` is the job that the bid's hash must name.
    """

    lease_no: bytes
    bid: Bid
    bid_signature: bytes
    ask: Ask
    prices: Prices
    spec: JobSpec
    interval_ms: int
    opened_unix: int
    seat: int = 0

    @property
    def opened(self) -> OpenedFrom:
        """What the lease is opened from."""
        return OpenedFrom(self.ask, self.bid, self.prices, self.seat)

    @property
    def silence_ms(self) -> int:
        """How long after the last sign of life usage still counts."""
        return silence_ms(min(self.interval_ms, WITNESSED_INTERVAL_MS_MAX))

    @property
    def unseen_ms(self) -> int:
        """The longest a job runs without a countersignature."""
        return unseen_ms(min(self.interval_ms, WITNESSED_INTERVAL_MS_MAX))


@dataclass(frozen=True, slots=True)
class Mark:
    """The most a witness has signed for on one lease."""

    sequence: int = -1
    ms: int = 0
    egress_mib: int = 0
    units: int = 0

    def covers(self, earlier: Self) -> bool:
        """Whether no amount is below the earlier one's."""
        amounts = ((m.ms, m.egress_mib, m.units) for m in (self, earlier))
        return all(now >= before for now, before in zip(*amounts, strict=True))


@dataclass(frozen=True, slots=True)
class LeaseWatch:
    """How long a witness has watched a lease: until now, and until the last sign of life."""

    elapsed_ms: int
    alive_ms: int

    @property
    def tolerance_ms(self) -> int:
        """What a reading may be ahead of the watch: polling delay and clock drift."""
        return TOLERANCE_MS + self.elapsed_ms // DRIFT_PER_MS


def judge_lease(papers: Papers, witness: str) -> WitnessRefusal | None:
    """Check that a lease is the one that this bid opened, at prices within the bid's limits.

    The escrow checks prices again when it opens. The check here keeps a witness from helping a
    lease that its buyer did not want.
    """
    bid, ask, prices = papers.bid, papers.ask, papers.prices
    if bid.witness != witness:
        return WitnessRefusal.NOT_OUR_WITNESS
    if papers.spec.hash() != bid.job_hash:
        return WitnessRefusal.OTHER_JOB
    if witness in (ask.provider, ask.meter):
        return WitnessRefusal.OTHER_PARTIES
    if papers.lease_no != papers.opened.lease_no:
        return WitnessRefusal.OTHER_LEASE
    limit = next((at for at in bid.limits if at.tier == ask.tier), None)
    try:
        within = limit is not None and (
            prices.rate(bid.sizes()) <= limit.rate
            and (bid.egress_mib == 0 or prices.egress_gib <= limit.egress_gib)
            and (bid.units == 0 or prices.unit <= limit.unit)
        )
    except FieldError:  # the rate fits no contract
        within = False
    return None if within else WitnessRefusal.ABOVE_LIMIT


def judge_opened(papers: Papers, shown: LeaseView) -> WitnessRefusal | None:
    """Check that the chain shows the lease that these papers open."""
    found = unlike(shown, papers.opened)
    return None if found is None else WitnessRefusal(found.value)


def judge_usage(
    papers: Papers, mark: Mark, watch: LeaseWatch, usage: UsageAttestation | Close
) -> WitnessRefusal | None:
    """Check cumulative or final usage: it grows, is not ahead of the watch, and its caps hold."""
    bid, ask = papers.bid, papers.ask
    if usage.lease_no != papers.lease_no:
        return WitnessRefusal.OTHER_LEASE
    if usage.buyer != bid.buyer or usage.provider != ask.provider:
        return WitnessRefusal.OTHER_PARTIES
    if isinstance(usage, UsageAttestation) and usage.sequence <= mark.sequence:
        return WitnessRefusal.SEQUENCE_USED
    if not Mark(0, usage.ms, usage.egress_mib, usage.units).covers(mark):
        return WitnessRefusal.WENT_BACK
    longest_ms = ask.max_seconds * 1000  # with top-ups; the chain pays only what it has locked
    if usage.egress_mib > bid.egress_mib or usage.units > bid.units or usage.ms > longest_ms:
        return WitnessRefusal.ABOVE_CAP
    if usage.ms > watch.elapsed_ms + watch.tolerance_ms:
        return WitnessRefusal.AHEAD_OF_CLOCK
    if usage.ms > watch.alive_ms + papers.silence_ms + watch.tolerance_ms:
        return WitnessRefusal.NO_HEARTBEAT
    return None


def first_watch(papers: Papers, mark: Mark, stated_ms: int, since_opened_ms: int) -> LeaseWatch:
    """The watch of a witness that first sees a lease when that already states some ms.

    It believes only what it can have missed: a job runs on for at most `unseen_ms` beyond the last
    countersignature, and never longer than its lease is open.
    """
    believable = min(stated_ms, mark.ms + papers.unseen_ms, max(0, since_opened_ms))
    return LeaseWatch(believable, believable)
