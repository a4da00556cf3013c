"""What can happen to a job and its lease, and what each fact changes: no I/O, no clock.

A service tells `advance` what happened and carries out the effects. Nothing else changes the state
of a job or a lease. `docs/life.md` shows every case.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from marketplace.domain.life import (
    GIVEN_UP,
    JOB_ENDED,
    JOB_UNOPENED,
    LEASE_OPEN,
    LEASE_OVER,
    LEASE_UNOPENED,
    REORG_STEPS,
    REPORTABLE,
    Do,
    Effect,
    JobLife,
    JobState,
    LeaseLife,
    LeaseState,
    Outcome,
    PutOnBook,
    Reason,
    RetryOn,
    RunReport,
    StopReason,
    SuspendAsk,
    Turn,
)
from marketplace.domain.reader import duration_text
from marketplace.errors import Conflict

_EVERY = tuple(LeaseState)
_ACTIVE, _CLOSED = (LeaseState.ACTIVE,), (LeaseState.CLOSED,)
_OPENED = (*LEASE_OPEN, *_CLOSED)


@dataclass(frozen=True)
class Fact:
    """Something that happened.

    `counts`: states of the lease in which it counts; None if it is about no lease. In the states in
    `ignored` it changes nothing, in all others it is refused.
    """

    counts: ClassVar[tuple[LeaseState, ...] | None] = None
    ignored: ClassVar[tuple[LeaseState, ...]] = ()

    def change(self, turn: Turn) -> None:
        """What it changes. Nothing, unless a fact says otherwise."""


# The book and the buyer


@dataclass(frozen=True)
class BidFilled(Fact):
    """The book matched the job's bid with an ask. `lease`: the one that is to open."""

    lease: LeaseLife
    ask_id: str

    def change(self, turn: Turn) -> None:
        job = turn.job
        if job.state is not JobState.QUEUED or job.void or job.ending is Outcome.CANCELLED:
            turn.do(Do.FREE_CAPACITY)
            if job.state is JobState.QUEUED:
                turn.move_job(JobState.CANCELLED, Reason.CANCELLED)
            return
        turn.known_lease = self.lease
        turn.set_job(
            lease_id=self.lease.id,
            excluded=(*job.excluded, self.ask_id),
            reserve=self.lease.lock,
            matched_ms=turn.now_ms,
        )
        turn.move_job(JobState.MATCHED)
        turn.do(Do.SEND_OPENING)


@dataclass(frozen=True)
class BidLeftBook(Fact):
    """The job's bid left the book without a match. `detail`: why nothing matched, if known."""

    reason: str
    cancelled: bool = False
    detail: str | None = None

    def change(self, turn: Turn) -> None:
        job = turn.job
        if job.state is not JobState.QUEUED:
            return
        if self.cancelled or job.ending is Outcome.CANCELLED:
            state = JobState.CANCELLED
        else:
            state = JobState.FAILED if job.lease_id is not None else JobState.NO_MATCH
        turn.move_job(state, self.reason, self.detail)


class BuyerCancelled(Fact):
    """The buyer wants the job to end."""

    def change(self, turn: Turn) -> None:
        if turn.job.state in JOB_ENDED:
            raise Conflict(f"the job has ended: {turn.job.state}")
        turn.cancel()


class BidVoided(Fact):
    """The buyer signed a Cancel: the bid opens no further lease. A lease that is open goes on."""

    def change(self, turn: Turn) -> None:
        if turn.job.state in JOB_ENDED:
            return
        turn.set_job(void=True)
        if turn.job.state in JOB_UNOPENED:
            turn.cancel()


# The chain


class Fault(StrEnum):
    """Who is to blame if the chain refuses to open a lease."""

    BUYER = "buyer"  # every other ask would fail, too
    ASK = "ask"  # every other bid would fail, too
    PAIR = "pair"  # neither; only these two do not go together


@dataclass(frozen=True)
class OpeningFailed(Fact):
    """The chain refused the opening. `previous`: the bid's latest lease that did open."""

    counts, ignored = (LeaseState.OPENING,), _EVERY
    error: str
    fault: Fault
    previous: str | None = None

    def change(self, turn: Turn) -> None:
        """Try the next ask, unless the buyer is to blame or has cancelled.

        A job that runs already, on a lease that a reorg took back, has nothing left to run on.
        """
        turn.move_lease(LeaseState.FAILED_TO_OPEN)
        turn.set_lease(reason=self.error)
        if self.fault is Fault.ASK:
            turn.do(SuspendAsk(self.error))
        turn.do(Do.FREE_CAPACITY)
        job = turn.job
        if job.state is JobState.QUEUED:
            if turn.is_jobs_lease:
                turn.set_job(lease_id=self.previous)
            turn.resume_after_lease()
            return
        if not turn.is_jobs_lease or job.state in JOB_ENDED:
            return
        if job.ending is Outcome.CANCELLED:
            turn.move_job(JobState.CANCELLED, Reason.CANCELLED)
            return
        if self.fault is Fault.BUYER or job.state is JobState.RUNNING:
            turn.move_job(JobState.FAILED, Reason.OPEN_FAILED, self.error)
            return
        turn.set_job(lease_id=self.previous)
        turn.move_job(JobState.QUEUED, Reason.OPEN_FAILED, self.error)
        if job.void:
            turn.move_job(JobState.CANCELLED, Reason.ORDER_CANCELLED)
            return
        until_ms = job.retry_until_ms or job.rest_until_ms or turn.now_ms
        rests = RetryOn.NO_CAPACITY in job.retry.on or job.retry_until_ms is not None
        turn.do(PutOnBook(until_ms, rests))
        turn.tell()


class LeaseOpened(Fact):
    """The chain opened the lease."""

    counts, ignored = LEASE_UNOPENED, _OPENED

    def change(self, turn: Turn) -> None:
        """The agent may start, unless the job has gone on, has ended or is to end."""
        turn.move_lease(LeaseState.ACTIVE)
        if not turn.is_jobs_lease or turn.job.state in JOB_ENDED:  # the opening was given up
            turn.ask_stop(StopReason.CANCELLED)
        else:
            turn.set_job(reserve=0)
            if turn.job.state is JobState.MATCHED:
                turn.move_job(JobState.STARTING)
            if turn.job.ending is Outcome.CANCELLED:
                turn.ask_stop(StopReason.CANCELLED)
        turn.do(Do.TELL_COST)


class OpeningReverted(Fact):
    """A reorg took the opening back. The relayer sends it again."""

    counts, ignored = _OPENED, LEASE_UNOPENED

    def change(self, turn: Turn) -> None:
        """A job that was starting waits for the lease to open again; one that runs goes on."""
        turn.move_lease(LeaseState.OPENING, REORG_STEPS)
        turn.set_lease(again=False)
        turn.forgive()
        if turn.is_jobs_lease and turn.job.state is JobState.STARTING:
            turn.set_job(state=JobState.MATCHED, reserve=turn.lease.lock)
            turn.tell()


class LeaseStopped(Fact):
    """The chain took a Stop: the lease has ended, but vouchers are still paid."""

    counts, ignored = _ACTIVE, LEASE_OVER

    def change(self, turn: Turn) -> None:
        turn.end_lease(LeaseState.STOPPED)


class LeaseClosed(Fact):
    """The chain closed the lease: everything is paid or refunded."""

    counts, ignored = LEASE_OPEN, _CLOSED

    def change(self, turn: Turn) -> None:
        turn.end_lease(LeaseState.CLOSED)


@dataclass(frozen=True)
class EndReverted(Fact):
    """A reorg took the Stop or the Close back; the chain now has the lease in state `to`."""

    counts, ignored = LEASE_OVER, _ACTIVE
    to: LeaseState

    def change(self, turn: Turn) -> None:
        """The lease goes back; its job does not."""
        if self.to is not turn.lease.state:
            turn.move_lease(self.to, REORG_STEPS)
            if self.to is LeaseState.ACTIVE and not turn.lease.stop_signed:
                turn.forgive()
            turn.do(Do.TELL_COST)


@dataclass(frozen=True)
class SeatMarked(Fact):
    """The chain has the mark that lets the lease's bid open again, or a reorg took it back."""

    counts = LEASE_OVER
    again: bool

    def change(self, turn: Turn) -> None:
        turn.set_lease(again=self.again)
        if self.again:
            turn.resume_after_lease()


class ProviderStopped(Fact):
    """The chain shows that the provider's side stopped the lease, by a transaction of its own."""

    counts, ignored = LEASE_OVER, _EVERY

    def change(self, turn: Turn) -> None:
        """The job has ended by then; only the provider's reliability is still to suffer."""
        if turn.lease.reason not in (*GIVEN_UP, Reason.PROVIDER_STOPPED):
            turn.set_lease(reason=Reason.PROVIDER_STOPPED)
            turn.do(Do.JUDGE_PROVIDER)


class RetryWindowPassed(Fact):
    """The time in which the job may go to another ask is over."""

    def change(self, turn: Turn) -> None:
        """A job that still waits to be let on ends; one that is on the book is the book's."""
        if turn.job.state is JobState.QUEUED and turn.job.requeue_after is not None:
            turn.stop_waiting()
            turn.move_job(JobState.FAILED, Reason.RETRY_PASSED)


# The agent and the witness


@dataclass(frozen=True)
class UsageAttested(Fact):
    """The market accepted an attestation. The first one of a lease says that the job is ready."""

    counts = LEASE_OPEN
    observed_ms: int

    def change(self, turn: Turn) -> None:
        if turn.lease.ready_ms is not None:
            return
        turn.set_lease(ready_ms=self.observed_ms)
        if turn.is_jobs_lease and turn.job.state is JobState.STARTING:
            turn.set_job(started_ms=turn.job.started_ms or turn.now_ms)
            turn.move_job(JobState.RUNNING)


@dataclass(frozen=True)
class RunReported(Fact):
    """The agent said how the run ended, and its meter signed its half of the Close."""

    counts = LEASE_OPEN
    report: RunReport

    def change(self, turn: Turn) -> None:
        """Keep the report; the job ends as it says once the lease is over."""
        outcome, had_notice = self.report.outcome, turn.lease.notice_ms is not None
        if outcome not in REPORTABLE and not had_notice:
            raise Conflict(f"an agent cannot report that a job is {outcome}")
        if outcome is Outcome.OVER_BUDGET and not turn.lease.budget_limited:
            raise Conflict("the budget did not limit this lease")
        first_ms = turn.lease.finished_ms  # a second report makes the end no later
        turn.set_lease(report=self.report, finished_ms=first_ms or turn.now_ms)
        if turn.is_running_it:
            if turn.job.ending is not Outcome.CANCELLED:
                turn.set_job(ending=outcome)
            turn.tell()


class CloseSigned(Fact):
    """The witness signed its half of the Close."""

    counts = LEASE_OPEN

    def change(self, turn: Turn) -> None:
        turn.do(Do.SEND_CLOSE)


@dataclass(frozen=True)
class StopSigned(Fact):
    """The witness or the meter signed a Stop."""

    counts = _ACTIVE
    by_meter: bool = False

    def change(self, turn: Turn) -> None:
        """A meter that was not asked, and has reported no end, ends the lease for its provider."""
        lease, job = turn.lease, turn.job
        turn.set_lease(stop_signed=True)
        if self.by_meter and lease.stop_requested is None and lease.report is None:
            turn.set_lease(reason=Reason.PROVIDER_STOPPED)
            if turn.is_running_it and job.ending is None:
                turn.set_job(ending=Outcome.LOST, reason=Reason.PROVIDER_STOPPED)
        turn.do(Do.SEND_STOP)


class NoticeGiven(Fact):
    """The provider gave notice that it takes the lease's node back. Only the first one counts."""

    counts = (LeaseState.OPENING, LeaseState.ACTIVE)
    ignored = _EVERY

    def change(self, turn: Turn) -> None:
        """The job goes on until the notice is over; its agent ends it then, and says so."""
        lease = turn.lease
        if lease.notice_seconds is None:
            raise Conflict("the lease is not interruptible")
        if lease.notice_ms is not None or lease.report is not None:
            return
        turn.set_lease(notice_ms=turn.now_ms)
        if turn.is_running_it:
            said = f"the provider takes the node back in {duration_text(lease.notice_seconds)}"
            turn.set_job(detail=said)
            turn.tell()


# Silence, as the watchdog sees it


class ProviderSilent(Fact):
    """Nothing was heard of the provider for too long."""

    counts, ignored = _ACTIVE, _EVERY

    def change(self, turn: Turn) -> None:
        turn.give_up(StopReason.LOST, Reason.PROVIDER_LOST)


class StartLimitPassed(Fact):
    """The job was not ready within the ask's start limit."""

    counts, ignored = _ACTIVE, _EVERY

    def change(self, turn: Turn) -> None:
        turn.give_up(StopReason.START_LIMIT, Reason.START_LIMIT_PASSED)


class CloseOverdue(Fact):
    """The run has ended, and no Close of the witness is under way."""

    counts, ignored = _ACTIVE, _EVERY

    def change(self, turn: Turn) -> None:
        lease = turn.lease
        if lease.report is not None and lease.stop_requested is not StopReason.UNWITNESSED:
            turn.ask_stop(StopReason.UNWITNESSED)


class StopOverdue(Fact):
    """A Stop was asked for and nobody signed one, or the lease ran out first."""

    counts, ignored = _ACTIVE, _EVERY

    def change(self, turn: Turn) -> None:
        """End the job of a lease that was given up, though the lease still runs."""
        lease = turn.lease
        asked = lease.stop_requested in GIVEN_UP and lease.report is None and not lease.stop_signed
        if asked and turn.is_running_it and turn.job.ending is not None:
            turn.end_run()


def advance(
    job: JobLife, lease: LeaseLife | None, fact: Fact, now_ms: int
) -> tuple[JobLife, LeaseLife | None, tuple[Effect, ...]]:
    """The job and the lease after a fact, and what is to be done, in order.

    `lease` is the one that the fact is about; if the fact is about the bid or the job, the job's
    latest one, if any. A fact that changes nothing gives back the same values and no effects.
    Raises Conflict if the fact cannot be: refuse whoever brings it.
    """
    turn = Turn(job, lease, now_ms)
    if fact.counts is not None and turn.lease.state not in fact.counts:
        if turn.lease.state not in fact.ignored:
            raise Conflict(f"the lease is {turn.lease.state}")
        return job, lease, ()
    fact.change(turn)
    return turn.job, turn.known_lease, tuple(turn.effects)
