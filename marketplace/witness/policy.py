"""What a witness signs and what it refuses: pure rules, no clock, no store, no network.

The witness knows three things for sure: the bid its buyer signed, the ask that a lease number is
bound to, and how long it has itself watched the job live. Everything the market says beyond that is
checked against them or matters to no signature. Times are in milliseconds.
"""

from dataclasses import dataclass
from enum import StrEnum

from settlement.attestation import Close, UsageAttestation
from settlement.errors import FieldError
from settlement.orders import Ask, Bid, Prices, lease_no
from settlement.silence import silence_ms, unseen_ms
from settlement.units import rate_of

TOLERANCE_MS = 3_000
DRIFT_PER_MS = 5_000  # one ms of tolerance per 5 s watched: two honest clocks drift apart
INTERVAL_MS_MAX = 60_000  # the market states the interval; a longer one would stretch the bounds


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


@dataclass(frozen=True, slots=True)
class WatchedTerms:
    """One lease as its signed orders bind it; `prices` are the ones it executes at."""

    bid: Bid
    ask: Ask
    prices: Prices
    metered: bool
    interval_ms: int

    @property
    def _interval(self) -> int:
        return min(self.interval_ms, INTERVAL_MS_MAX)

    @property
    def lease_no(self) -> bytes:
        """The only lease these orders can open."""
        return lease_no(self.bid.struct_hash(), self.ask.struct_hash(), self.ask.meter)

    @property
    def silence_ms(self) -> int:
        """How long after the last sign of life usage still counts."""
        return silence_ms(self._interval)

    @property
    def unseen_ms(self) -> int:
        """The longest a job runs without a countersignature."""
        return unseen_ms(self._interval)


@dataclass(frozen=True, slots=True)
class Mark:
    """The most a witness has signed for on one lease."""

    sequence: int = -1
    ms: int = 0
    egress_mib: int = 0
    units: int = 0


@dataclass(frozen=True, slots=True)
class LeaseWatch:
    """How long a witness has watched a lease: until now, and until the last sign of life."""

    elapsed_ms: int
    alive_ms: int

    @property
    def tolerance_ms(self) -> int:
        """What a reading may be ahead of the watch: polling delay and clock drift."""
        return TOLERANCE_MS + self.elapsed_ms // DRIFT_PER_MS


def judge_lease(
    terms: WatchedTerms, witness: str, buyer: str, provider: str, number: bytes
) -> WitnessRefusal | None:
    """Check that a lease is the one this buyer's bid opened, at prices within the bid's limits.

    The escrow checks prices again when it opens; checking here keeps a witness from helping a lease
    its buyer did not want.
    """
    if terms.bid.witness != witness:
        return WitnessRefusal.NOT_OUR_WITNESS
    if terms.bid.buyer != buyer or terms.ask.provider != provider:
        return WitnessRefusal.OTHER_PARTIES
    if witness in (terms.ask.provider, terms.ask.meter):
        return WitnessRefusal.OTHER_PARTIES
    if terms.lease_no != number:
        return WitnessRefusal.OTHER_LEASE
    return _judge_prices(terms)


def _judge_prices(terms: WatchedTerms) -> WitnessRefusal | None:
    bid, prices = terms.bid, terms.prices
    limit = next((at for at in bid.limits if at.tier == terms.ask.tier), None)
    if limit is None:
        return WitnessRefusal.ABOVE_LIMIT
    try:
        rate = rate_of(prices.timed(), bid.sizes())
    except FieldError:
        return WitnessRefusal.ABOVE_LIMIT
    above = (
        rate > limit.rate
        or (bid.egress_mib > 0 and prices.egress_gib > limit.egress_gib)
        or (bid.units > 0 and prices.unit > limit.unit)
    )
    return WitnessRefusal.ABOVE_LIMIT if above else None


def judge_attestation(
    terms: WatchedTerms, mark: Mark, watch: LeaseWatch, reading: UsageAttestation
) -> WitnessRefusal | None:
    """Check cumulative usage: it grows, it is not ahead of the watch, and its caps hold."""
    if reading.lease_no != terms.lease_no:
        return WitnessRefusal.OTHER_LEASE
    if reading.buyer != terms.bid.buyer or reading.provider != terms.ask.provider:
        return WitnessRefusal.OTHER_PARTIES
    if reading.sequence <= mark.sequence:
        return WitnessRefusal.SEQUENCE_USED
    return _judge_amounts(terms, mark, watch, reading.ms, reading.egress_mib, reading.units)


def judge_close(
    terms: WatchedTerms, mark: Mark, watch: LeaseWatch, close: Close
) -> WitnessRefusal | None:
    """Check final usage by the same rules as any other: it may not exceed what was watched."""
    if close.lease_no != terms.lease_no:
        return WitnessRefusal.OTHER_LEASE
    if close.buyer != terms.bid.buyer or close.provider != terms.ask.provider:
        return WitnessRefusal.OTHER_PARTIES
    return _judge_amounts(terms, mark, watch, close.ms, close.egress_mib, close.units)


def _judge_amounts(
    terms: WatchedTerms, mark: Mark, watch: LeaseWatch, ms: int, egress_mib: int, units: int
) -> WitnessRefusal | None:
    if ms < mark.ms or egress_mib < mark.egress_mib or units < mark.units:
        return WitnessRefusal.WENT_BACK
    if egress_mib > terms.bid.egress_mib or units > terms.bid.units:
        return WitnessRefusal.ABOVE_CAP
    if ms > (terms.bid.max_seconds + terms.ask.start_limit_seconds) * 1000:
        return WitnessRefusal.ABOVE_CAP
    if ms > watch.elapsed_ms + watch.tolerance_ms:
        return WitnessRefusal.AHEAD_OF_CLOCK
    if ms > watch.alive_ms + terms.silence_ms + watch.tolerance_ms:
        return WitnessRefusal.NO_HEARTBEAT
    return None


def first_watch(
    terms: WatchedTerms, mark: Mark, stated_ms: int, since_opened_ms: int
) -> LeaseWatch:
    """The watch of a witness that sees a lease for the first time, when it already states some ms.

    It believes what it can have missed and no more: a job runs on for `unseen_ms` beyond the last
    countersignature, and never longer than its lease is open.
    """
    believable = min(stated_ms, mark.ms + terms.unseen_ms, max(0, since_opened_ms))
    return LeaseWatch(believable, believable)
