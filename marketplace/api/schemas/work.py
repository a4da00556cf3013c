"""Shapes of bids, jobs, leases, attestations, receipts and blobs."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from marketplace.api.schemas.base import (
    AccountSignature,
    Address,
    Answer,
    Body,
    Message,
    Money,
    Page,
    Prepared,
    Sha256,
    Signature,
    Usage,
)
from marketplace.api.schemas.offers import Match

OFFSET_MAX = 2**53 - 1
LOG_TEXT_MAX = 256 * 1024


class BidDraft(Body):
    """A job and the key that will witness it."""

    job: dict[str, Any]
    witness: Address
    account: Address | None = Field(None, description="must be the API key's account, if given")


class Plan(Answer):
    """What submitting would do, before anything is bought."""

    matches: list[Match]
    no_match: dict[str, Any] | None
    price: dict[str, str] | None
    rate_per_hour: str | None
    max_cost: Money
    balance: Money
    shortfall: Money


class PreparedBid(Prepared):
    """A bid to check and sign."""

    hash: str
    bid: Message
    job_hash: str
    job: dict[str, Any] = Field(description="the normalised spec whose hash the bid names")
    plan: Plan


class Bid(Answer):
    """A signed bid."""

    id: str
    account: str
    job_id: str
    bid: Message
    signature: str
    hash: str
    created_at: str


class BidPage(Page):
    """Bids, newest first."""

    data: list[Bid]


class JobIn(Body):
    """A job and its signed bid."""

    job: dict[str, Any]
    bid: Message
    signature: AccountSignature


class Cost(Answer):
    """What a job has cost so far and may still."""

    accrued: Money
    rate_per_hour: str
    locked: Money
    projected: Money
    budget_left: Money
    ms: int


class Job(Answer):
    """A job as its buyer sees it."""

    id: str
    account: str
    name: str
    state: str
    reason: str | None
    detail: str | None
    ending: str | None
    bid_id: str
    lease_id: str | None
    lease_no: str | None = Field(description="with account, provider, witness: the lease on chain")
    provider: str | None
    witness: str | None
    job_hash: str
    spec: dict[str, Any]
    no_match: dict[str, Any] | None
    exit_code: int | None
    outputs: str | None
    max_cost: Money
    cost: Cost | None
    created_at: str
    matched_at: str | None
    started_at: str | None
    finished_at: str | None


class JobPage(Page):
    """Jobs, newest first."""

    data: list[Job]


class JobEvent(Answer):
    """One event of a job."""

    id: int
    type: str
    data: dict[str, Any]
    at: str


class JobEventPage(Page):
    """Events in order."""

    data: list[JobEvent]


class Lease(Answer):
    """A lease as both parties see it. `terms` is null until the chain has opened it."""

    id: str
    lease_no: str
    job_id: str
    bid_id: str
    ask_id: str
    node_id: str
    buyer: str
    provider: str
    witness: str
    meter: str
    state: str
    reason: str | None
    interval_ms: int
    terms: dict[str, Any] | None
    gpus: list[int]
    used: Usage
    countersigned: Usage
    settled: Usage
    refused_attestations: int
    cost: Money
    released: Money
    refunded: Money
    stop_requested: str | None
    outcome: dict[str, Any] | None
    final: dict[str, Any] | None
    job: dict[str, Any] | None
    opened_tx: str | None
    closed_tx: str | None
    ready_at: str | None
    created_at: str
    closed_at: str | None


class LeasePage(Page):
    """Leases, newest first."""

    data: list[Lease]


class AttestationIn(Body):
    """A UsageAttestation and its meter's signature."""

    attestation: Message
    signature: Signature


class AttestationAnswer(Answer):
    """What became of an attestation."""

    id: str
    sequence: int
    state: str
    code: str | None


class Attestation(Answer):
    """An attestation as it was stored."""

    id: str
    lease_id: str
    sequence: int
    state: str = Field(description="accepted, refused or countersigned")
    code: str | None
    message: Message
    signature: str
    voucher: dict[str, Any] | None
    created_at: str


class AttestationPage(Page):
    """Attestations in order of arrival."""

    data: list[Attestation]


class Countersignature(Body):
    """The witness's voucher for an attestation."""

    voucher: Message
    signature: Signature


class HeartbeatIn(Body):
    """A job's signs of life."""

    count: int = Field(ge=0, le=2**53 - 1)
    last: str | None = Field(None, max_length=40, description="RFC 3339")


class Heartbeat(Answer):
    """The signs of life as the market has them."""

    count: int
    last_at: str | None


class LogIn(Body):
    """Output of a job."""

    stream: str = Field(max_length=16, examples=["stdout"])
    offset: int = Field(ge=0, le=OFFSET_MAX, description="UTF-8 bytes of the stream before this")
    text: str = Field(min_length=1, max_length=LOG_TEXT_MAX)


class LogAnswer(Answer):
    """Where the stream goes on."""

    stream: str
    next_offset: int


class CloseHalf(Body):
    """The meter's half of a Close."""

    message: Message
    signature: Signature


class FinishIn(Body):
    """An agent's report of a job's end."""

    outcome: str = Field(examples=["succeeded"])
    exit_code: int | None = Field(None, ge=-(2**31), le=2**31 - 1)
    reason: str = Field("", max_length=2_000)
    outputs: Sha256 | None = None
    attestation: Message
    signature: Signature
    close: CloseHalf


class SignatureIn(Body):
    """A signature alone."""

    signature: Signature


class StopIn(Body):
    """A Stop signed by witness or meter."""

    stop: Message
    signature: Signature


class WitnessEntry(Answer):
    """What one lease wants from its witness."""

    lease: Lease
    attestation: Attestation | None
    close: dict[str, Any] | None
    heartbeat: Heartbeat | None


class WitnessPending(Answer):
    """Everything that awaits a witness."""

    data: list[WitnessEntry]


class Receipt(Answer):
    """Usage → rate → cost → transactions of one lease."""

    id: str
    job_id: str
    lease_id: str
    lease_no: str = Field("", description="with buyer, provider, witness: the lease on chain")
    buyer: str
    provider: str
    witness: str = ""
    created_at: str


class ReceiptPage(Page):
    """Receipts, newest first."""

    data: list[Receipt]


class Blob(Answer):
    """A stored file."""

    sha256: Sha256
    size: int
