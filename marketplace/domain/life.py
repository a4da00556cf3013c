"""A job and its lease: their states, the steps between them, and what follows from a step."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from marketplace.errors import Conflict


class JobState(StrEnum):
    """Where a job is. The last six are final."""

    QUEUED = "queued"
    MATCHED = "matched"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    OVER_BUDGET = "over_budget"
    NO_MATCH = "no_match"
    LOST = "lost"


JOB_LIVE = (JobState.QUEUED, JobState.MATCHED, JobState.STARTING, JobState.RUNNING)
JOB_ENDED = tuple(state for state in JobState if state not in JOB_LIVE)
JOB_UNOPENED = (JobState.QUEUED, JobState.MATCHED)  # between leases, or before the first
JOB_ON_NODE = (JobState.STARTING, JobState.RUNNING)  # the agent has the job


class LeaseState(StrEnum):
    """Where a lease is. `failed_to_open` is not final: the chain may still open it late."""

    OPENING = "opening"
    ACTIVE = "active"
    STOPPED = "stopped"
    CLOSED = "closed"
    FAILED_TO_OPEN = "failed_to_open"


LEASE_UNOPENED = (LeaseState.OPENING, LeaseState.FAILED_TO_OPEN)
LEASE_OPEN = (LeaseState.ACTIVE, LeaseState.STOPPED)  # on chain, and usage can still be paid
LEASE_OVER = (LeaseState.STOPPED, LeaseState.CLOSED)  # the node is free


class Outcome(StrEnum):
    """How a job's run ended; each is also a final state of the job."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    OVER_BUDGET = "over_budget"
    LOST = "lost"


# Of a lease that had no notice; of one that had, `lost`, too.
REPORTABLE = tuple(outcome for outcome in Outcome if outcome is not Outcome.LOST)


class StopReason(StrEnum):
    """Why the server asks the witness or the meter for a Stop."""

    CANCELLED = "cancelled"
    LOST = "lost"
    START_LIMIT = "start_limit"
    UNWITNESSED = "unwitnessed"
    RETRY = "retry"  # it is over, but the job goes on only if the witness lets its bid open again


class Reason(StrEnum):
    """Why the server moved a job. A job's reason may also come from the book or the agent."""

    CANCELLED = "cancelled"
    ORDER_CANCELLED = "order_cancelled"
    OPEN_FAILED = "open_failed"
    PROVIDER_LOST = "provider_lost"
    START_LIMIT_PASSED = "start_limit_passed"
    LEASE_STOPPED = "lease_stopped"
    RETRY_PASSED = "retry_passed"
    PROVIDER_STOPPED = "provider_stopped"


GIVEN_UP = (StopReason.LOST, StopReason.START_LIMIT)  # its provider does not serve the lease
# Faults that an agent admits to. The provider is not to blame for faults of the job or its buyer.
BROKEN_REASONS = (
    "agent_error", "agent_restarted", "agent_stopped", "no_capacity", "node_error",
    "sandbox_failed", "start_limit",
)  # fmt: skip


# Why a run whose node was taken back ended: when the notice was over, or sooner, by itself.
TAKEN_BACK, LEFT = "taken_back", "exit_code"
# How long after a notice is over the node may still be taken back for it: enough for a grace and a
# server that was away. One notice is no leave to drop the job at any time.
TAKE_BACK_MS = 3_600_000


class RetryOn(StrEnum):
    """After which events a job may go to another ask, as the job file names them."""

    NO_CAPACITY = "no-capacity"
    INTERRUPTION = "interruption"
    ERROR = "error"


RETRIED_ON = {Outcome.LOST: RetryOn.INTERRUPTION, Outcome.FAILED: RetryOn.ERROR}


def runs_again(retry_on: Collection[str], outcome: Outcome | None) -> bool:
    """Whether a job goes on after a run that ended like this (None: it was lost), as its job file
    says. Agent, server and witness go by this when they sign whether its bid may open again."""
    return RETRIED_ON.get(outcome or Outcome.LOST) in retry_on


# Values: the parts of a job and of a lease that decide what happens to them


@dataclass(frozen=True, slots=True)
class Retry:
    """When a job may go to another ask, and for how long after it first had to."""

    on: tuple[RetryOn, ...] = ()
    seconds: int = 3_600


@dataclass(frozen=True, slots=True)
class JobLife:
    """A job as far as its life goes.

    `lease_id`: its latest lease. `ending`: how its run is being ended, before it has ended.
    `requeue_after`: the lease that must end, and let its bid open again, before the bid goes back
    to the book. `excluded`: asks it was matched with. `reserve`: atoms its next lease may lock.
    `void`: its bid opens no lease.
    """

    state: JobState
    lease_id: str | None = None
    ending: Outcome | None = None
    reason: str | None = None
    detail: str | None = None
    requeue_after: str | None = None
    excluded: tuple[str, ...] = ()
    exit_code: int | None = None
    outputs: str | None = None
    reserve: int = 0
    rest_until_ms: int | None = None
    retry_until_ms: int | None = None
    matched_ms: int | None = None
    started_ms: int | None = None
    finished_ms: int | None = None
    retry: Retry = Retry()
    void: bool = False


@dataclass(frozen=True, slots=True)
class RunReport:
    """What the agent said of a run that ended. `outputs`: the SHA-256 of a blob, in hex."""

    outcome: Outcome
    reason: str | None = None
    exit_code: int | None = None
    outputs: str | None = None


@dataclass(frozen=True, slots=True)
class LeaseLife:
    """A lease as far as its life goes.

    `lock`: atoms. `reason`: why it did not open, or why its provider was given up, for good.
    `notice_seconds`: how long before it takes the node back the provider says so; None: it never
    does. `notice_ms`: when it said so. `stop_requested`: why witness or meter are asked for a Stop.
    `stop_signed`: one of them has signed it. `again`: its bid may open once more. `report` and
    `finished_ms` come together; the first report says when.
    """

    id: str
    state: LeaseState
    lock: int = 0
    budget_limited: bool = False
    reason: str | None = None
    ready_ms: int | None = None
    notice_seconds: int | None = None
    notice_ms: int | None = None
    stop_requested: StopReason | None = None
    stop_requested_ms: int | None = None
    stop_signed: bool = False
    again: bool = False
    report: RunReport | None = None
    finished_ms: int | None = None

    @property
    def is_broken(self) -> bool:
        """Whether it failed by its provider's fault, or was taken back without the notice."""
        if self.reason in (*GIVEN_UP, Reason.PROVIDER_STOPPED) or self.stop_requested in GIVEN_UP:
            return True
        if self.report is None:
            return False
        if self.report.outcome is Outcome.LOST:
            return self._is_cut_short(self.report)
        return self.report.outcome is Outcome.FAILED and self.report.reason in BROKEN_REASONS

    def _is_cut_short(self, report: RunReport) -> bool:
        """Whether the provider took the node back before its notice was over, or long after it; a
        job that has had the notice may leave sooner."""
        if self.notice_ms is None or self.notice_seconds is None or self.finished_ms is None:
            return True
        late_ms = self.finished_ms - (self.notice_ms + self.notice_seconds * 1000)
        return late_ms > TAKE_BACK_MS or (late_ms < 0 and report.reason != LEFT)


# Effects: what the services are to do then, in order


class Do(StrEnum):
    """Effects that need nothing but the job and the lease."""

    SEND_OPENING = "send the opening"
    SEND_STOP = "send the Stop"
    SEND_CLOSE = "send the Close"
    TAKE_OFF_BOOK = "take the bid off the book"
    FREE_CAPACITY = "free the fill's capacity"
    SETTLE_CHARGE = "settle the key's charge"
    JUDGE_PROVIDER = "judge the provider"
    WRITE_RECEIPT = "write the receipt"
    TELL_COST = "tell the cost"


@dataclass(frozen=True, slots=True)
class TellStatus:
    """Tell who watches the job that it stands like this."""

    job: JobLife


@dataclass(frozen=True, slots=True)
class PutOnBook:
    """Put the bid back on the book with the budget that is left, until a time.

    `rests`: whether it waits there if nothing matches at once.
    """

    until_ms: int
    rests: bool


@dataclass(frozen=True, slots=True)
class SuspendAsk:
    """Take the lease's ask off the book, because no bid can use it."""

    reason: str


Effect = Do | TellStatus | PutOnBook | SuspendAsk


# How they move

_RUN_ENDS = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.LOST)
JOB_STEPS: dict[JobState, tuple[JobState, ...]] = {
    JobState.QUEUED: (JobState.MATCHED, JobState.NO_MATCH, JobState.CANCELLED, JobState.FAILED),
    JobState.MATCHED: (JobState.STARTING, JobState.QUEUED, JobState.CANCELLED, JobState.FAILED),
    JobState.STARTING: (JobState.RUNNING, JobState.MATCHED, JobState.QUEUED, *_RUN_ENDS),
    JobState.RUNNING: (JobState.OVER_BUDGET, *_RUN_ENDS),
    JobState.LOST: (JobState.QUEUED,),  # in passing: a running job that goes on was lost first
}
LeaseSteps = Mapping[LeaseState, tuple[LeaseState, ...]]
LEASE_STEPS: LeaseSteps = {
    LeaseState.OPENING: (LeaseState.ACTIVE, LeaseState.FAILED_TO_OPEN),
    LeaseState.FAILED_TO_OPEN: (LeaseState.ACTIVE,),
    LeaseState.ACTIVE: LEASE_OVER,
    LeaseState.STOPPED: (LeaseState.CLOSED,),
}
REORG_STEPS: LeaseSteps = {  # steps taken back
    LeaseState.ACTIVE: (LeaseState.OPENING,),
    LeaseState.STOPPED: (LeaseState.OPENING, LeaseState.ACTIVE),
    LeaseState.CLOSED: (LeaseState.OPENING, LeaseState.ACTIVE, LeaseState.STOPPED),
}


@dataclass(slots=True)
class Turn:
    """One fact being taken in: what has become of job and lease so far, and the effects."""

    job: JobLife
    known_lease: LeaseLife | None
    now_ms: int
    effects: list[Effect] = field(default_factory=list)

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

    @property
    def is_running_it(self) -> bool:
        """Whether the lease's agent has the job."""
        return self.is_jobs_lease and self.job.state in JOB_ON_NODE

    def set_job(self, **changes: Any) -> None:
        self.job = replace(self.job, **changes)

    def set_lease(self, **changes: Any) -> None:
        self.known_lease = replace(self.lease, **changes)

    def do(self, *effects: Effect) -> None:
        self.effects += effects

    def tell(self) -> None:
        self.do(TellStatus(self.job))

    def move_job(
        self, state: JobState, reason: str | None = None, detail: str | None = None
    ) -> None:
        """The job's next state, with its reason; those who watch it hear of it."""
        if state not in JOB_STEPS.get(self.job.state, ()):
            raise Conflict(f"a job that is {self.job.state} cannot become {state}")
        self.set_job(state=state, reason=reason, detail=detail, finished_ms=None)
        if state in JOB_ENDED:
            self.set_job(finished_ms=self.now_ms, reserve=0)
            self.do(Do.SETTLE_CHARGE)
        self.tell()

    def move_lease(self, state: LeaseState, steps: LeaseSteps = LEASE_STEPS) -> None:
        if state not in steps.get(self.lease.state, ()):
            raise Conflict(f"a lease that is {self.lease.state} cannot become {state}")
        self.set_lease(state=state)

    def ask_stop(self, reason: StopReason) -> None:
        self.set_lease(stop_requested=reason, stop_requested_ms=self.now_ms)

    def cancel(self) -> None:
        """End a job: off the book, or by asking for a Stop. Nothing queues it again."""
        job, lease = self.job, self.known_lease
        if job.ending is Outcome.CANCELLED:
            return
        self.set_job(ending=Outcome.CANCELLED)
        if job.state is JobState.QUEUED and job.requeue_after is not None:  # not on the book
            self.stop_waiting()
            self.move_job(JobState.CANCELLED)
            return
        if job.state is JobState.QUEUED:
            self.do(Do.TAKE_OFF_BOOK)
        runs = lease is not None and lease.state is LeaseState.ACTIVE and lease.report is None
        if runs and self.lease.stop_requested is None:
            self.ask_stop(StopReason.CANCELLED)
        self.tell()

    def give_up(self, stop: StopReason, reason: Reason) -> None:
        """Ask for a Stop of a lease that its provider does not serve; its job ends as lost."""
        if self.lease.report is not None or self.lease.stop_requested in GIVEN_UP:
            return
        self.ask_stop(stop)
        self.set_lease(reason=stop)
        if self.is_running_it and self.job.ending is None:
            self.set_job(ending=Outcome.LOST, reason=reason)

    def forgive(self) -> None:
        """The provider's stop was taken back."""
        if self.lease.reason == Reason.PROVIDER_STOPPED:
            self.set_lease(reason=None)

    def end_lease(self, state: LeaseState) -> None:
        """End the run that the lease was for, or go on with the job that waited for its end."""
        held = self.lease.state is LeaseState.ACTIVE
        self.move_lease(state)
        is_closed = state is LeaseState.CLOSED
        self.do(Do.TELL_COST, *([Do.FREE_CAPACITY] if held else []), Do.JUDGE_PROVIDER)
        if self.job.state is JobState.QUEUED:
            self.seek_mark()
        elif self.is_running_it:
            self.end_run()
        if is_closed:
            self.do(Do.WRITE_RECEIPT)
            if self.job.state in JOB_ENDED and Do.SETTLE_CHARGE not in self.effects:
                self.do(Do.SETTLE_CHARGE)

    def end_run(self) -> None:
        """End the job as its agent reported, else as it was being ended, else as cancelled."""
        job, report = self.job, self.lease.report
        end = report or RunReport(job.ending or Outcome.CANCELLED)
        reason = end.reason or job.reason or self.lease.stop_requested
        if report is None and job.ending is None:
            reason = Reason.LEASE_STOPPED  # by a party's own transaction, past this server
        self.set_job(exit_code=end.exit_code, outputs=end.outputs, reason=reason)
        if self._is_retried(end.outcome):
            self._requeue(end.outcome)
            return
        if end.outcome is Outcome.OVER_BUDGET and self.job.state is JobState.STARTING:
            self.move_job(JobState.RUNNING)
        self.move_job(JobState(end.outcome), reason)

    def _is_retried(self, outcome: Outcome) -> bool:
        job = self.job
        if job.void or job.ending is Outcome.CANCELLED or not runs_again(job.retry.on, outcome):
            return False
        return job.retry_until_ms is None or self.now_ms < job.retry_until_ms

    def _requeue(self, outcome: Outcome) -> None:
        """Look for another ask; the chain opens no lease of the bid before this one is marked."""
        job = self.job
        if job.state is JobState.RUNNING:
            self.set_job(state=JobState.LOST, reason=job.reason or outcome)
            self.tell()
        self.set_job(
            ending=None,
            requeue_after=self.lease.id,
            retry_until_ms=job.retry_until_ms or self.now_ms + job.retry.seconds * 1000,
        )
        self.move_job(JobState.QUEUED, outcome, "looking for another ask")
        if self.lease.state in LEASE_OVER:
            self.seek_mark()

    def seek_mark(self) -> None:
        """Go on with the job that waits for this lease, or have the witness let its bid open again.

        The chain takes that only from the buyer's side.
        """
        if self.lease.again or self.job.void:
            self.resume_after_lease()
        elif self.job.requeue_after == self.lease.id:
            self.ask_stop(StopReason.RETRY)

    def stop_waiting(self) -> None:
        """The job waits for no lease: its witness need not let the bid open again, or it has."""
        self.set_job(requeue_after=None)
        if self.known_lease is None or self.lease.stop_requested is not StopReason.RETRY:
            return
        if self.lease.reason in GIVEN_UP:  # a reorg may take its end back: then it is to stop again
            self.set_lease(stop_requested=StopReason(self.lease.reason))
        else:
            self.set_lease(stop_requested=None, stop_requested_ms=None)

    def resume_after_lease(self) -> None:
        """Put a bid that waited for this lease back on the book."""
        if self.job.requeue_after != self.lease.id:
            return
        self.stop_waiting()
        if self.job.void:
            self.move_job(JobState.CANCELLED, Reason.ORDER_CANCELLED)
            return
        self.do(PutOnBook(self.job.retry_until_ms or self.now_ms, rests=True))
        self.tell()
