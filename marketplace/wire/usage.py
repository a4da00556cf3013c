"""What meter and witness say of usage: attestations, vouchers, heartbeats, output."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from marketplace.limits import LOG_OFFSET_MAX, LOG_TEXT_CHARS_MAX
from marketplace.wire.base import Answer, Body, KeySignature, Lax, Time
from marketplace.wire.signed import AnyVoucher, Signed
from settlement.attestation import Close, UsageAttestation

COUNT_MAX = 2**53 - 1  # what every JSON reader holds exactly


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

    count: int = Field(ge=0, le=COUNT_MAX)
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
    offset: int = Field(ge=0, le=LOG_OFFSET_MAX)
    text: str = Field(min_length=1, max_length=LOG_TEXT_CHARS_MAX)


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
