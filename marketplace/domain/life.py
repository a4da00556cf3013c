"""What a job's life is made of: states, facts that come in, effects that follow.

A service tells `marketplace.domain.advance.advance` what happened and carries out the effects.
Nothing else changes the state of a job or a lease. `docs/life.md` shows every case.
"""

from dataclasses import dataclass
from enum import StrEnum


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
LEASE_OVER = (LeaseState.STOPPED, LeaseState.CLOSED)  # the chain accepts the bid's next lease


class Outcome(StrEnum):
    """How a job's run ended; each is also a final state of the job."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    OVER_BUDGET = "over_budget"
    LOST = "lost"


REPORTABLE = tuple(outcome for outcome in Outcome if outcome is not Outcome.LOST)


class StopReason(StrEnum):
    """Why the server asks the witness or the meter for a Stop."""

    CANCELLED = "cancelled"
    LOST = "lost"
    START_LIMIT = "start_limit"
    UNWITNESSED = "unwitnessed"


class Reason(StrEnum):
    """Why the server moved a job. A job's reason may also come from the book or the agent."""

    CANCELLED = "cancelled"
    ORDER_CANCELLED = "order_cancelled"
    OPEN_FAILED = "open_failed"
    PROVIDER_LOST = "provider_lost"
    START_LIMIT_PASSED = "start_limit_passed"
    LEASE_STOPPED = "lease_stopped"


GIVEN_UP = (StopReason.LOST, StopReason.START_LIMIT)  # its provider does not serve the lease
# What an agent admits. Of a job's own faults, and of its buyer's, the provider is not to blame.
BROKEN_REASONS = (
    "agent_error", "agent_restarted", "agent_stopped", "no_capacity", "node_error",
    "sandbox_failed", "start_limit",
)  # fmt: skip


class RetryOn(StrEnum):
    """After which events a job may go to another ask, as the job file names them."""

    NO_CAPACITY = "no-capacity"
    INTERRUPTION = "interruption"
    ERROR = "error"


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
    `requeue_after`: the lease it waits for before its bid goes back to the book. `excluded`: asks
    it was matched with. `reserve`: atoms its next lease may lock. `void`: its bid opens no lease.
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

    `lock`: atoms. `stop_requested`: why witness or meter are asked for a Stop. `stop_signed`: one
    of them has signed it. `report` and `finished_ms` come together.
    """

    id: str
    state: LeaseState
    lock: int = 0
    budget_limited: bool = False
    reason: str | None = None
    ready_ms: int | None = None
    stop_requested: StopReason | None = None
    stop_requested_ms: int | None = None
    stop_signed: bool = False
    report: RunReport | None = None
    finished_ms: int | None = None

    @property
    def is_broken(self) -> bool:
        """Whether it failed by its provider's fault."""
        if self.stop_requested in GIVEN_UP:
            return True
        if self.report is None or self.report.outcome is not Outcome.FAILED:
            return False
        return self.report.reason in BROKEN_REASONS


# Facts: what happens to them. First the book's and the buyer's


@dataclass(frozen=True, slots=True)
class BidFilled:
    """The book matched the job's bid with an ask. `lease`: the one that is to open."""

    lease: LeaseLife
    ask_id: str


@dataclass(frozen=True, slots=True)
class BidLeftBook:
    """The job's bid left the book without a match. `detail`: why nothing matched, if known."""

    reason: str
    cancelled: bool = False
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class BuyerCancelled:
    """The buyer wants the job to end."""


@dataclass(frozen=True, slots=True)
class BidVoided:
    """The buyer signed a Cancel: the bid opens no further lease. A lease that is open goes on."""


# The chain's


class Fault(StrEnum):
    """Who is to blame if the chain refuses to open a lease."""

    BUYER = "buyer"  # every other ask would fail, too
    ASK = "ask"  # every other bid would fail, too
    PAIR = "pair"  # neither; only these two do not go together


@dataclass(frozen=True, slots=True)
class OpeningFailed:
    """The chain refused the opening. `previous`: the bid's latest lease that did open."""

    error: str
    fault: Fault
    previous: str | None = None


@dataclass(frozen=True, slots=True)
class LeaseOpened:
    """The chain opened the lease."""


@dataclass(frozen=True, slots=True)
class OpeningReverted:
    """A reorg took the opening back. The relayer sends it again."""


@dataclass(frozen=True, slots=True)
class LeaseStopped:
    """The chain took a Stop: the lease has ended, but vouchers are still paid."""


@dataclass(frozen=True, slots=True)
class LeaseClosed:
    """The chain closed the lease: everything is paid or refunded."""


@dataclass(frozen=True, slots=True)
class EndReverted:
    """A reorg took the Stop or the Close back; the chain now has the lease in state `to`."""

    to: LeaseState


@dataclass(frozen=True, slots=True)
class LeaseRanOut:
    """The chain's time passed the end of the lease, and nobody stopped it."""


# The agent's and the witness's


@dataclass(frozen=True, slots=True)
class UsageAttested:
    """The market accepted an attestation. The first one of a lease says that the job is ready."""

    observed_ms: int


@dataclass(frozen=True, slots=True)
class RunReported:
    """The agent said how the run ended, and its meter signed its half of the Close."""

    report: RunReport


@dataclass(frozen=True, slots=True)
class CloseSigned:
    """The witness signed its half of the Close."""


@dataclass(frozen=True, slots=True)
class StopSigned:
    """The witness or the meter signed a Stop."""


# Silence, as the watchdog sees it


@dataclass(frozen=True, slots=True)
class ProviderSilent:
    """Nothing was heard of the provider for too long."""


@dataclass(frozen=True, slots=True)
class StartLimitPassed:
    """The job was not ready within the ask's start limit."""


@dataclass(frozen=True, slots=True)
class CloseOverdue:
    """The run has ended, and no Close of the witness is under way."""


@dataclass(frozen=True, slots=True)
class StopOverdue:
    """A Stop was asked for and nobody signed one, or the lease ran out first."""


Fact = (
    BidFilled | BidLeftBook | BuyerCancelled | BidVoided
    | OpeningFailed | LeaseOpened | OpeningReverted | LeaseStopped | LeaseClosed | EndReverted
    | LeaseRanOut
    | UsageAttested | RunReported | CloseSigned | StopSigned
    | ProviderSilent | StartLimitPassed | CloseOverdue | StopOverdue
)  # fmt: skip


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
