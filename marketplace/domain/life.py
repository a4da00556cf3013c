"""What may happen to a job and its lease: the states, the facts, and one function over them."""

from __future__ import annotations

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


LIVE = (JobState.QUEUED, JobState.MATCHED, JobState.STARTING, JobState.RUNNING)
ENDED = tuple(state for state in JobState if state not in LIVE)
UNOPENED = (JobState.QUEUED, JobState.MATCHED)  # no lease of the job is open yet
ON_NODE = (JobState.STARTING, JobState.RUNNING)  # the agent has the job


class LeaseState(StrEnum):
    """Where a lease is. `failed_to_open` is not final: the chain may still open it late."""

    OPENING = "opening"
    ACTIVE = "active"
    STOPPED = "stopped"
    CLOSED = "closed"
    FAILED_TO_OPEN = "failed_to_open"


NOT_ON_CHAIN = (LeaseState.OPENING, LeaseState.FAILED_TO_OPEN)
OPEN = (LeaseState.ACTIVE, LeaseState.STOPPED)  # on chain, and usage can still be paid
OVER = (LeaseState.STOPPED, LeaseState.CLOSED)  # the chain accepts the bid's next lease


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


class RetryOn(StrEnum):
    """After which events a job may go to another ask, as the job file names them."""

    NO_CAPACITY = "no-capacity"
    INTERRUPTION = "interruption"
    ERROR = "error"
