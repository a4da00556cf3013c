"""Jobs: bought with a signed bid, watched, cancelled, topped up."""

from typing import Annotated

from pydantic import Field

from marketplace.domain.life import JOB_ENDED, JobState, Outcome
from marketplace.wire.base import (
    AccountSignature,
    Address,
    Answer,
    Body,
    DecimalText,
    Hash32,
    Lax,
    LeaseNo,
    Money,
    Sha256,
    Time,
)
from marketplace.wire.explanation import NoMatch
from marketplace.wire.jobfile import JobDocument, JobFile
from marketplace.wire.orders import Transaction
from marketplace.wire.signed import Signed
from settlement.orders import Bid


class JobOrder(Body):
    """A job and its signed bid."""

    job: JobFile
    bid: Signed[Bid]
    signature: AccountSignature


class Cost(Answer):
    """What a job's present lease has cost so far and may still cost.

    `projected` is the cost of the maximum duration; `ms` is the time that counts.
    """

    accrued: Money
    rate_per_hour: DecimalText = Field(description="tokens per hour, everything included")
    locked: Money
    projected: Money
    budget_left: Money
    ms: int


class Job(Answer):
    """A job as its buyer sees it. `max_cost` is what its lease locks, or will lock at most.

    `ending` says how a job will end while it is being ended. With `account`, `provider` and
    `witness`, `lease_no` names the lease on chain.
    """

    id: str
    account: Address
    name: str
    state: Annotated[JobState, Lax]
    reason: str | None = Field(description="why it is in this state, as a code")
    detail: str | None = Field(description="the same for people")
    ending: Annotated[Outcome, Lax] | None
    bid_id: str
    lease_id: str | None
    lease_no: LeaseNo | None
    provider: Address | None
    witness: Address | None
    job_hash: Hash32
    spec: JobDocument
    no_match: NoMatch | None
    exit_code: int | None
    outputs: Sha256 | None = Field(description="the blob that the job left")
    max_cost: Money
    cost: Cost | None
    created_at: Time
    matched_at: Time | None
    started_at: Time | None
    finished_at: Time | None

    @property
    def is_final(self) -> bool:
        """Whether it has ended for good."""
        return self.state in JOB_ENDED


class TopUpRequest(Body):
    """How much longer a job may run."""

    duration: str = Field(max_length=20, examples=["30m"])


class TopUp(Answer):
    """What the buyer sends to run a job longer, and what that locks at most."""

    lease_id: str
    transaction: Transaction
    lock: Money
