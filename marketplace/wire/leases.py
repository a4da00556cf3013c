"""Leases: terms, usage as meter and witness sign it, how far they have come, and how they end."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from marketplace import limits
from marketplace.domain.life import JobState, LeaseState, Outcome, StopReason
from marketplace.wire.base import (
    Address,
    Answer,
    AnyVoucher,
    Body,
    GpuMilli,
    IntText,
    KeySignature,
    Lax,
    LeaseNo,
    Many,
    Money,
    NoticeSeconds,
    Sha256,
    Signed,
    Time,
    TxHash,
)
from marketplace.wire.jobfile import JobDocument
from settlement.attestation import Close, Stop, UsageAttestation
from settlement.orders import Prices

# Usage


class Used(Answer):
    """Cumulative usage of a lease, as far as it costs money."""

    ms: int
    egress_mib: int
    units: int


class Measured(Used):
    """Cumulative usage in every resource that is measured."""

    gpu_ms: int
    cpu_core_ms: int
    memory_mib_ms: int
    storage_mib_ms: int


class AttestationState(StrEnum):
    """`countersigned`: accepted, and the witness has answered it with a voucher."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    COUNTERSIGNED = "countersigned"


class SignedAttestation(Body):
    """Cumulative usage, signed by the meter."""

    attestation: Signed[UsageAttestation]
    signature: KeySignature


class AttestationAnswer(Answer):
    """What became of an attestation. `code` says why one is refused."""

    id: str
    sequence: int
    state: Annotated[AttestationState, Lax]
    code: str | None


class SignedVoucher(Answer):
    """The witness's answer to an attestation."""

    message: AnyVoucher
    signature: KeySignature


class Attestation(AttestationAnswer):
    """A meter's attestation as the market keeps it."""

    lease_id: str
    message: Signed[UsageAttestation]
    signature: KeySignature
    voucher: SignedVoucher | None
    created_at: Time


class Countersignature(Body):
    """The witness's voucher for an attestation."""

    voucher: AnyVoucher
    signature: KeySignature


class HeartbeatReport(Body):
    """A job's signs of life: how many so far, and when the last one came."""

    count: int = Field(ge=0, le=limits.HEARTBEATS_MAX)
    last: str | None = Field(default=None, max_length=40, description="RFC 3339")


class Heartbeat(Answer):
    """The signs of life as the market has them."""

    count: int
    last_at: Time | None


class OutputStream(StrEnum):
    """Where a job's output comes from; `agent` is what the node's agent says of it."""

    STDOUT = "stdout"
    STDERR = "stderr"
    AGENT = "agent"


class LogChunk(Body):
    """Output of a job. `offset` counts the stream's UTF-8 bytes before it."""

    stream: Annotated[OutputStream, Lax]
    offset: int = Field(ge=0, le=limits.LOG_OFFSET_MAX)
    text: str = Field(min_length=1, max_length=limits.LOG_TEXT_CHARS_MAX)


class LogPosition(Answer):
    """Where the stream goes on."""

    stream: Annotated[OutputStream, Lax]
    next_offset: int


class SignedClose(Body):
    """The meter's half of a Close."""

    message: Signed[Close]
    signature: KeySignature


class PendingClose(Answer):
    """A Close that the meter has signed."""

    message: Signed[Close]
    meter_signature: KeySignature


# Leases


class LeaseTerms(Answer):
    """Terms that the chain has frozen. Times are Unix seconds.

    `rate` is 1e-12 token per hour; `prices` are the signed prices, 1e-9 token each.
    """

    rate: IntText
    prices: Signed[Prices]
    start: int
    end: int
    paid_seconds: int = Field(description="the most time that is paid for, between start and end")
    lock: Money
    gpu_milli: GpuMilli
    budget_limited: bool = Field(description="whether the budget ends before the duration does")
    metered: bool = Field(description="whether egress or units are counted")
    start_limit_seconds: int = Field(description="how long the job may take to start")
    max_seconds: int = Field(description="how long the job may run")
    unit: str | None
    units_cap: int
    egress_cap_mib: int


class JobOutcome(Answer):
    """What the agent reports of a job's end."""

    outcome: Annotated[Outcome, Lax]
    exit_code: int | None
    reason: str | None
    outputs: Sha256 | None


class JobBrief(Answer):
    """The job of a lease, as both parties see it."""

    id: str
    state: Annotated[JobState, Lax]
    spec: JobDocument


class Lease(Answer):
    """A lease as both parties see it.

    With `buyer`, `provider` and `witness`, `lease_no` names it on chain. `terms` is null until the
    chain has opened it. `gpus` are places in the node's list. `stop_requested` says why the witness
    or the agent is asked to stop it; `final` is there once the agent has reported the end.
    """

    id: str
    lease_no: LeaseNo
    job_id: str
    bid_id: str
    ask_id: str
    node_id: str
    buyer: Address
    provider: Address
    witness: Address
    meter: Address
    state: Annotated[LeaseState, Lax]
    reason: str | None
    interval_ms: int
    terms: LeaseTerms | None
    gpus: Many[int]
    used: Measured = Field(description="attested by the meter")
    countersigned: Used = Field(description="accepted by the witness")
    settled: Used = Field(description="paid on chain")
    refused_attestations: int
    cost: Money = Field(description="so far; once it is closed, what was released")
    released: Money
    refunded: Money
    notice_seconds: NoticeSeconds
    notice_at: Time | None = Field(description="when its provider gave that notice")
    stop_requested: Annotated[StopReason, Lax] | None
    outcome: JobOutcome | None
    final: PendingClose | None
    job: JobBrief | None
    opened_tx: TxHash | None
    closed_tx: TxHash | None
    ready_at: Time | None
    created_at: Time
    closed_at: Time | None


class FinishReport(Body):
    """An agent's report of a job's end: the last attestation and the meter's half of the Close."""

    outcome: Annotated[Outcome, Lax]
    exit_code: int | None = Field(default=None, ge=-(2**31), le=2**31 - 1)
    reason: str = Field(default="", max_length=limits.REASON_CHARS_MAX)
    outputs: Sha256 | None = None
    attestation: Signed[UsageAttestation]
    signature: KeySignature
    close: SignedClose


class WitnessSignature(Body):
    """The witness's half of a Close."""

    signature: KeySignature


class SignedStop(Body):
    """A Stop, signed by witness or meter."""

    stop: Signed[Stop]
    signature: KeySignature


class CloseRequest(PendingClose):
    """A Close for the witness to sign, and the outcome that the agent reports."""

    outcome: JobOutcome | None


class Pending(Answer):
    """What one lease wants from its witness."""

    lease: Lease
    attestation: Attestation | None
    close: CloseRequest | None
    heartbeat: Heartbeat | None


class PendingList(Answer):
    """Everything that awaits a witness."""

    data: Many[Pending]
