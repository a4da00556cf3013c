"""What a lease's meter and witness sign.

A meter signs `UsageAttestation`s, which stay off chain. A witness answers each one with a voucher
(`Usage` or `MeteredUsage`) that the escrow pays. Source: `IComputeEscrow`.
"""

from dataclasses import dataclass, fields

from settlement.eip712 import Address, Bytes16, Bytes32, Struct, Uint32, Uint40, Uint64
from settlement.usage import UsageVector


@dataclass(frozen=True, slots=True)
class _LeaseStruct(Struct):
    buyer: Address
    provider: Address
    lease_no: Bytes16


@dataclass(frozen=True, slots=True)
class UsageAttestation(_LeaseStruct):
    """Cumulative usage that the meter states at one sequence number.

    `observed_at_ms` is Unix time in ms; `evidence` commits to the raw readings both sides keep.
    """

    sequence: Uint32
    observed_at_ms: Uint64
    ms: Uint64
    gpu_ms: Uint64
    cpu_core_ms: Uint64
    memory_mib_ms: Uint64
    storage_mib_ms: Uint64
    egress_mib: Uint32
    units: Uint32
    evidence: Bytes32

    def usage(self) -> UsageVector:
        """The usage vector it states."""
        return UsageVector(**{f.name: getattr(self, f.name) for f in fields(UsageVector)})


@dataclass(frozen=True, slots=True)
class Usage(_LeaseStruct):
    """A voucher for time: the witness accepts cumulative `ms`."""

    ms: Uint64


@dataclass(frozen=True, slots=True)
class MeteredUsage(_LeaseStruct):
    """A voucher for time and counted resources."""

    ms: Uint64
    egress_mib: Uint32
    units: Uint32


@dataclass(frozen=True, slots=True)
class Stop(_LeaseStruct):
    """Ends a lease now. Signed by its buyer, witness or meter, and good until `deadline`.

    With `again` the bid's seat may open once more, which a meter's never says.
    """

    again: bool
    deadline: Uint40


@dataclass(frozen=True, slots=True)
class Close(_LeaseStruct):
    """Final cumulative usage. Signed by meter and witness; the escrow pays and refunds at once.

    With `again` the bid's seat may open once more.
    """

    ms: Uint64
    egress_mib: Uint32
    units: Uint32
    again: bool


Voucher = Usage | MeteredUsage


def voucher_for(attestation: UsageAttestation, metered: bool) -> Voucher:
    """The voucher a witness signs when it accepts an attestation."""
    parties = (attestation.buyer, attestation.provider, attestation.lease_no)
    if metered:
        return MeteredUsage(*parties, attestation.ms, attestation.egress_mib, attestation.units)
    return Usage(*parties, attestation.ms)
