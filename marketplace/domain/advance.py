"""What happens to a job and its lease when a fact comes in: one function, no I/O, no clock.

The table RULES, above `advance` at the end, says which handler takes in which fact.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from marketplace.domain.life import (
    GIVEN_UP,
    JOB_ENDED,
    JOB_ON_NODE,
    JOB_UNOPENED,
    LEASE_OPEN,
    LEASE_OVER,
    LEASE_UNOPENED,
    REPORTABLE,
    BidFilled,
    BidLeftBook,
    BidVoided,
    BuyerCancelled,
    CloseOverdue,
    CloseSigned,
    Do,
    Effect,
    EndReverted,
    Fact,
    Fault,
    JobLife,
    JobState,
    LeaseClosed,
    LeaseLife,
    LeaseOpened,
    LeaseRanOut,
    LeaseState,
    LeaseStopped,
    OpeningFailed,
    OpeningReverted,
    Outcome,
    ProviderSilent,
    PutOnBook,
    Reason,
    RetryOn,
    RunReported,
    StartLimitPassed,
    StopOverdue,
    StopReason,
    StopSigned,
    SuspendAsk,
    TellStatus,
    UsageAttested,
)
from marketplace.errors import Conflict

_RUN_ENDS = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.LOST)
JOB_STEPS: dict[JobState, tuple[JobState, ...]] = {
    JobState.QUEUED: (JobState.MATCHED, JobState.NO_MATCH, JobState.CANCELLED, JobState.FAILED),
    JobState.MATCHED: (JobState.STARTING, JobState.QUEUED, JobState.CANCELLED, JobState.FAILED),
    JobState.STARTING: (JobState.RUNNING, JobState.MATCHED, JobState.QUEUED, *_RUN_ENDS),
    JobState.RUNNING: (JobState.OVER_BUDGET, *_RUN_ENDS),
    JobState.LOST: (JobState.QUEUED,),  # in passing: a running job that goes on was lost first
    JobState.SUCCEEDED: (),
    JobState.FAILED: (),
    JobState.CANCELLED: (),
    JobState.OVER_BUDGET: (),
    JobState.NO_MATCH: (),
}
LeaseSteps = Mapping[LeaseState, tuple[LeaseState, ...]]
LEASE_STEPS: LeaseSteps = {
    LeaseState.OPENING: (LeaseState.ACTIVE, LeaseState.FAILED_TO_OPEN),
    LeaseState.FAILED_TO_OPEN: (LeaseState.ACTIVE,),
    LeaseState.ACTIVE: LEASE_OVER,
    LeaseState.STOPPED: (LeaseState.CLOSED,),
    LeaseState.CLOSED: (),
}
REORG_STEPS: LeaseSteps = {  # steps taken back
    LeaseState.OPENING: (),
    LeaseState.FAILED_TO_OPEN: (),
    LeaseState.ACTIVE: (LeaseState.OPENING,),
    LeaseState.STOPPED: (LeaseState.OPENING, LeaseState.ACTIVE),
    LeaseState.CLOSED: (LeaseState.OPENING, LeaseState.ACTIVE, LeaseState.STOPPED),
}
_RETRIED_ON = {Outcome.LOST: RetryOn.INTERRUPTION, Outcome.FAILED: RetryOn.ERROR}


class _Turn:
    """One fact being taken in: what has become of job and lease so far, and the effects."""

    def __init__(self, job: JobLife, lease: LeaseLife | None, now_ms: int) -> None:
        self.job = job
        self.known_lease = lease
        self.now_ms = now_ms
        self.effects: list[Effect] = []

    @property
    def lease(self) -> LeaseLife:
        """The lease that the fact is about."""
        if self.known_lease is None:
            raise Conflict("the job has no lease")
        return self.known_lease

    @property
    def is_jobs_lease(self) -> bool:
        """Whether the job still goes by this lease; it may have gone on to another."""
        return self.job.lease_id == self.lease.id

    def set_job(self, **changes: Any) -> None:
        self.job = replace(self.job, **changes)

    def set_lease(self, **changes: Any) -> None:
        self.known_lease = replace(self.lease, **changes)

    def do(self, effect: Effect) -> None:
        self.effects.append(effect)

    def tell(self) -> None:
        self.do(TellStatus(self.job))

    def move_job(
        self, state: JobState, reason: str | None = None, detail: str | None = None
    ) -> None:
        """The job's next state, with its reason; those who watch it hear of it."""
        if state not in JOB_STEPS[self.job.state]:
            raise Conflict(f"a job that is {self.job.state} cannot become {state}")
        self.set_job(state=state, reason=reason, detail=detail, finished_ms=None)
        if state in JOB_ENDED:
            self.set_job(finished_ms=self.now_ms, reserve=0)
            self.do(Do.SETTLE_CHARGE)
        self.tell()

    def move_lease(self, state: LeaseState, steps: LeaseSteps = LEASE_STEPS) -> None:
        if state not in steps[self.lease.state]:
            raise Conflict(f"a lease that is {self.lease.state} cannot become {state}")
        self.set_lease(state=state)

    def ask_stop(self, reason: StopReason) -> None:
        self.set_lease(stop_requested=reason, stop_requested_ms=self.now_ms)


# The book and the buyer


def _filled(turn: _Turn, fact: BidFilled) -> None:
    """Open a lease, unless the job no longer waits for one."""
    job = turn.job
    if job.state is not JobState.QUEUED or job.void or job.ending is Outcome.CANCELLED:
        turn.do(Do.FREE_CAPACITY)
        if job.state is JobState.QUEUED:
            turn.move_job(JobState.CANCELLED, Reason.CANCELLED)
        return
    turn.known_lease = fact.lease
    turn.set_job(
        lease_id=fact.lease.id,
        excluded=(*job.excluded, fact.ask_id),
        reserve=fact.lease.lock,
        matched_ms=turn.now_ms,
    )
    turn.move_job(JobState.MATCHED)
    turn.do(Do.SEND_OPENING)


def _left_book(turn: _Turn, fact: BidLeftBook) -> None:
    """A waiting job ends: cancelled, failed if it had a lease before, else without a match."""
    job = turn.job
    if job.state is not JobState.QUEUED:
        return
    if fact.cancelled or job.ending is Outcome.CANCELLED:
        state = JobState.CANCELLED
    else:
        state = JobState.FAILED if job.lease_id is not None else JobState.NO_MATCH
    turn.move_job(state, fact.reason, fact.detail)


def _cancelled(turn: _Turn, _: BuyerCancelled | BidVoided) -> None:
    """End a job: off the book, or by asking for a Stop. Nothing that follows queues it again."""
    job, lease = turn.job, turn.known_lease
    if job.state in JOB_ENDED:
        raise Conflict(f"the job has ended: {job.state}")
    if job.ending is Outcome.CANCELLED:
        return
    turn.set_job(ending=Outcome.CANCELLED)
    if job.state is JobState.QUEUED and job.requeue_after is not None:  # not on the book
        turn.set_job(requeue_after=None)
        turn.move_job(JobState.CANCELLED)
        return
    if job.state is JobState.QUEUED:
        turn.do(Do.TAKE_OFF_BOOK)
    runs = lease is not None and lease.state is LeaseState.ACTIVE and lease.report is None
    if runs and turn.lease.stop_requested is None:
        turn.ask_stop(StopReason.CANCELLED)
    turn.tell()


def _voided(turn: _Turn, fact: BidVoided) -> None:
    """A job without an open lease is cancelled; one that runs goes on, but is not queued again."""
    if turn.job.state in JOB_ENDED:
        return
    turn.set_job(void=True)
    if turn.job.state in JOB_UNOPENED:
        _cancelled(turn, fact)


# The chain


def _failed_to_open(turn: _Turn, fact: OpeningFailed) -> None:
    """Try the next ask, unless the buyer is to blame or has cancelled."""
    turn.move_lease(LeaseState.FAILED_TO_OPEN)
    turn.set_lease(reason=fact.error)
    if fact.fault is Fault.ASK:
        turn.do(SuspendAsk(fact.error))
    turn.do(Do.FREE_CAPACITY)
    job = turn.job
    if not turn.is_jobs_lease or job.state is not JobState.MATCHED:
        return
    if job.ending is Outcome.CANCELLED:
        turn.move_job(JobState.CANCELLED, Reason.CANCELLED)
        return
    if fact.fault is Fault.BUYER:
        turn.move_job(JobState.FAILED, Reason.OPEN_FAILED, fact.error)
        return
    turn.set_job(lease_id=fact.previous)
    turn.move_job(JobState.QUEUED, Reason.OPEN_FAILED, fact.error)
    if job.void:
        turn.move_job(JobState.CANCELLED, Reason.ORDER_CANCELLED)
        return
    until_ms = job.retry_until_ms or job.rest_until_ms or turn.now_ms
    rests = RetryOn.NO_CAPACITY in job.retry.on or job.retry_until_ms is not None
    turn.do(PutOnBook(until_ms, rests))
    turn.tell()


def _opened(turn: _Turn, _: LeaseOpened) -> None:
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


def _unopened(turn: _Turn, _: OpeningReverted) -> None:
    """The lease opens again. A job that was starting waits for it; one that runs goes on."""
    turn.move_lease(LeaseState.OPENING, REORG_STEPS)
    if turn.is_jobs_lease and turn.job.state is JobState.STARTING:
        turn.set_job(state=JobState.MATCHED, reserve=turn.lease.lock)
        turn.tell()


def _over(turn: _Turn, fact: LeaseStopped | LeaseClosed) -> None:
    """End the run that the lease was for, or go on with the job that waited for its end."""
    is_closed = isinstance(fact, LeaseClosed)
    turn.move_lease(LeaseState.CLOSED if is_closed else LeaseState.STOPPED)
    turn.do(Do.TELL_COST)
    if is_closed:
        turn.do(Do.FREE_CAPACITY)
    turn.do(Do.JUDGE_PROVIDER)
    job = turn.job
    if job.state is JobState.QUEUED:
        if job.requeue_after == turn.lease.id:
            _resume(turn)
    elif job.state in JOB_ON_NODE and turn.is_jobs_lease:
        _end(turn)
    if is_closed:
        turn.do(Do.WRITE_RECEIPT)
        if turn.job.state in JOB_ENDED and Do.SETTLE_CHARGE not in turn.effects:
            turn.do(Do.SETTLE_CHARGE)


def _end_reverted(turn: _Turn, fact: EndReverted) -> None:
    """The lease goes back; its job does not."""
    if fact.to is not turn.lease.state:
        turn.move_lease(fact.to, REORG_STEPS)
        turn.do(Do.TELL_COST)


def _ran_out(turn: _Turn, _: LeaseRanOut) -> None:
    """A job that waited for the end of a lost lease goes on, though nobody stopped that lease."""
    if turn.job.requeue_after == turn.lease.id:
        _resume(turn)


# The agent


def _attested(turn: _Turn, fact: UsageAttested) -> None:
    """The first attestation says that the job is ready: it runs from now on."""
    if turn.lease.ready_ms is not None:
        return
    turn.set_lease(ready_ms=fact.observed_ms)
    if turn.is_jobs_lease and turn.job.state is JobState.STARTING:
        turn.set_job(started_ms=turn.job.started_ms or turn.now_ms)
        turn.move_job(JobState.RUNNING)


def _reported(turn: _Turn, fact: RunReported) -> None:
    """Keep the report; the job ends as it says once the lease is over."""
    outcome = fact.report.outcome
    if outcome not in REPORTABLE:
        raise Conflict(f"an agent cannot report that a job is {outcome}")
    if outcome is Outcome.OVER_BUDGET and not turn.lease.budget_limited:
        raise Conflict("the budget did not limit this lease")
    turn.set_lease(report=fact.report, finished_ms=turn.now_ms)
    if turn.is_jobs_lease and turn.job.state in JOB_ON_NODE:
        if turn.job.ending is not Outcome.CANCELLED:
            turn.set_job(ending=outcome)
        turn.tell()


def _close_signed(turn: _Turn, _: CloseSigned) -> None:
    """Send the Close; the lease is over when the chain has it."""
    turn.do(Do.SEND_CLOSE)


def _stop_signed(turn: _Turn, _: StopSigned) -> None:
    """Send the Stop; the lease is over when the chain has it."""
    turn.set_lease(stop_signed=True)
    turn.do(Do.SEND_STOP)


# Silence


def _give_up(turn: _Turn, fact: ProviderSilent | StartLimitPassed) -> None:
    """Ask for a Stop of a lease that its provider does not serve; its job is being lost."""
    is_silent = isinstance(fact, ProviderSilent)
    if turn.lease.report is not None or turn.lease.stop_requested in GIVEN_UP:
        return
    turn.ask_stop(StopReason.LOST if is_silent else StopReason.START_LIMIT)
    job = turn.job
    if turn.is_jobs_lease and job.state in JOB_ON_NODE and job.ending is None:
        reason = Reason.PROVIDER_LOST if is_silent else Reason.START_LIMIT_PASSED
        turn.set_job(ending=Outcome.LOST, reason=reason)


def _close_overdue(turn: _Turn, _: CloseOverdue) -> None:
    """Ask for a Stop of a lease whose run has ended and that its witness does not close."""
    if turn.lease.report is not None and turn.lease.stop_requested is not StopReason.UNWITNESSED:
        turn.ask_stop(StopReason.UNWITNESSED)


def _stop_overdue(turn: _Turn, _: StopOverdue) -> None:
    """End the job of a lease that was given up, though the lease still runs."""
    lease = turn.lease
    asked = lease.stop_requested in GIVEN_UP and lease.report is None and not lease.stop_signed
    on_node = turn.is_jobs_lease and turn.job.state in JOB_ON_NODE
    if asked and on_node and turn.job.ending is not None:
        _end(turn)


# How a run ends


def _end(turn: _Turn) -> None:
    """The job's outcome: what its agent reported, else how it was being ended, else cancelled."""
    job, report = turn.job, turn.lease.report
    outcome = report.outcome if report else job.ending or Outcome.CANCELLED
    said = report.reason if report else None
    reason = said or job.reason or turn.lease.stop_requested
    if report is None and job.ending is None:
        reason = Reason.LEASE_STOPPED  # by a party's own transaction, past this server
    turn.set_job(
        exit_code=report.exit_code if report else None,
        outputs=report.outputs if report else None,
        reason=reason,
    )
    if _is_retried(turn, outcome):
        _requeue(turn, outcome)
        return
    if outcome is Outcome.OVER_BUDGET and turn.job.state is JobState.STARTING:
        turn.move_job(JobState.RUNNING)
    turn.move_job(JobState(outcome), reason)


def _is_retried(turn: _Turn, outcome: Outcome) -> bool:
    job = turn.job
    if job.void or job.ending is Outcome.CANCELLED or _RETRIED_ON.get(outcome) not in job.retry.on:
        return False
    return job.retry_until_ms is None or turn.now_ms < job.retry_until_ms


def _requeue(turn: _Turn, outcome: Outcome) -> None:
    """Look for another ask; the chain opens no lease of the bid before this one is over."""
    job = turn.job
    if job.state is JobState.RUNNING:
        turn.set_job(state=JobState.LOST, reason=job.reason or outcome)
        turn.tell()
    turn.set_job(
        ending=None,
        requeue_after=turn.lease.id,
        retry_until_ms=job.retry_until_ms or turn.now_ms + job.retry.seconds * 1000,
    )
    turn.move_job(JobState.QUEUED, outcome, "looking for another ask")
    if turn.lease.state in LEASE_OVER:
        _resume(turn)


def _resume(turn: _Turn) -> None:
    """Put the bid back on the book: its latest lease is over."""
    turn.set_job(requeue_after=None)
    if turn.job.void:
        turn.move_job(JobState.CANCELLED, Reason.ORDER_CANCELLED)
        return
    turn.do(PutOnBook(turn.job.retry_until_ms or turn.now_ms, rests=True))
    turn.tell()


# The table: which handler takes a fact in, and in which states of the lease


class _Rule(NamedTuple):
    """`counts`: states of the lease in which the fact counts; None where it is about no lease.

    In the states in `ignored` it changes nothing, in all others it is refused.
    """

    handle: Callable[[_Turn, Any], None]
    counts: tuple[LeaseState, ...] | None = None
    ignored: tuple[LeaseState, ...] = ()


_EVERY = tuple(LeaseState)
_ACTIVE, _CLOSED = (LeaseState.ACTIVE,), (LeaseState.CLOSED,)
_OPENED = (*LEASE_OPEN, *_CLOSED)
RULES: dict[type[Fact], _Rule] = {
    BidFilled: _Rule(_filled),
    BidLeftBook: _Rule(_left_book),
    BuyerCancelled: _Rule(_cancelled),
    BidVoided: _Rule(_voided),
    OpeningFailed: _Rule(_failed_to_open, (LeaseState.OPENING,), _EVERY),
    LeaseOpened: _Rule(_opened, LEASE_UNOPENED, _OPENED),
    OpeningReverted: _Rule(_unopened, _OPENED, LEASE_UNOPENED),
    LeaseStopped: _Rule(_over, _ACTIVE, LEASE_OVER),
    LeaseClosed: _Rule(_over, LEASE_OPEN, _CLOSED),
    EndReverted: _Rule(_end_reverted, LEASE_OVER, _ACTIVE),
    LeaseRanOut: _Rule(_ran_out, _ACTIVE, _EVERY),
    UsageAttested: _Rule(_attested, LEASE_OPEN),
    RunReported: _Rule(_reported, LEASE_OPEN),
    CloseSigned: _Rule(_close_signed, LEASE_OPEN),
    StopSigned: _Rule(_stop_signed, _ACTIVE),
    ProviderSilent: _Rule(_give_up, _ACTIVE, _EVERY),
    StartLimitPassed: _Rule(_give_up, _ACTIVE, _EVERY),
    CloseOverdue: _Rule(_close_overdue, _ACTIVE, _EVERY),
    StopOverdue: _Rule(_stop_overdue, _ACTIVE, _EVERY),
}


def advance(
    job: JobLife, lease: LeaseLife | None, fact: Fact, now_ms: int
) -> tuple[JobLife, LeaseLife | None, tuple[Effect, ...]]:
    """The job and the lease after a fact, and what is to be done, in order.

    `lease` is the one that the fact is about; if the fact is about the bid or the job, the job's
    latest one, if any. A fact that changes nothing gives back the same values and no effects.
    Raises Conflict if the fact cannot be: refuse whoever brings it.
    """
    turn, rule = _Turn(job, lease, now_ms), RULES[type(fact)]
    if rule.counts is not None and turn.lease.state not in rule.counts:
        if turn.lease.state not in rule.ignored:
            raise Conflict(f"the lease is {turn.lease.state}")
        return job, lease, ()
    rule.handle(turn, fact)
    return turn.job, turn.known_lease, tuple(turn.effects)
