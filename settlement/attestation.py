"""What meter and witness sign: attestations off chain, the rest for the chain.

`UsageAttestation` is the meter's statement and never reaches the chain; the witness answers it
with `Usage` or `MeteredUsage`, the voucher the escrow pays on. Source: `IComputeEscrow`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from settlement.eip712 import Struct
from settlement.usage import UsageVector

_LEASE: tuple[tuple[str, str], ...] = (
    ("address", "buyer"),
    ("address", "provider"),
    ("bytes16", "leaseNo"),
)


@dataclass(frozen=True, slots=True)
class UsageAttestation(Struct):
    """The meter's signed cumulative usage at one sequence number.

    `observed_at_ms` is Unix time in ms; `evidence` commits to the raw readings both sides keep.
    """

    primary: ClassVar[str] = "UsageAttestation"
    schema: ClassVar[tuple[tuple[str, str], ...]] = (
        *_LEASE,
        ("uint32", "sequence"),
        ("uint64", "observedAtMs"),
        ("uint64", "ms"),
        ("uint64", "gpuMs"),
        ("uint64", "cpuCoreMs"),
        ("uint64", "memoryMibMs"),
        ("uint64", "storageMibMs"),
        ("uint32", "egressMib"),
        ("uint32", "units"),
        ("bytes32", "evidence"),
    )

    buyer: str
    provider: str
    lease_no: bytes
    sequence: int
    observed_at_ms: int
    ms: int
    gpu_ms: int
    cpu_core_ms: int
    memory_mib_ms: int
    storage_mib_ms: int
    egress_mib: int
    units: int
    evidence: bytes

    def usage(self) -> UsageVector:
        """The usage vector it states."""
        return UsageVector(
            self.ms,
            self.gpu_ms,
            self.cpu_core_ms,
            self.memory_mib_ms,
            self.storage_mib_ms,
            self.egress_mib,
            self.units,
        )


@dataclass(frozen=True, slots=True)
class Usage(Struct):
    """A voucher for time: the witness accepts cumulative `ms`."""

    primary: ClassVar[str] = "Usage"
    schema: ClassVar[tuple[tuple[str, str], ...]] = (*_LEASE, ("uint64", "ms"))

    buyer: str
    provider: str
    lease_no: bytes
    ms: int


@dataclass(frozen=True, slots=True)
class MeteredUsage(Struct):
    """A voucher for time and counted resources."""

    primary: ClassVar[str] = "MeteredUsage"
    schema: ClassVar[tuple[tuple[str, str], ...]] = (
        *_LEASE,
        ("uint64", "ms"),
        ("uint32", "egressMib"),
        ("uint32", "units"),
    )

    buyer: str
    provider: str
    lease_no: bytes
    ms: int
    egress_mib: int
    units: int


@dataclass(frozen=True, slots=True)
class Stop(Struct):
    """Ends a lease now; signed by its witness or its meter."""

    primary: ClassVar[str] = "Stop"
    schema: ClassVar[tuple[tuple[str, str], ...]] = _LEASE

    buyer: str
    provider: str
    lease_no: bytes


@dataclass(frozen=True, slots=True)
class Close(Struct):
    """Final cumulative usage; signed by meter and witness, it pays and refunds at once."""

    primary: ClassVar[str] = "Close"
    schema: ClassVar[tuple[tuple[str, str], ...]] = (
        *_LEASE,
        ("uint64", "ms"),
        ("uint32", "egressMib"),
        ("uint32", "units"),
    )

    buyer: str
    provider: str
    lease_no: bytes
    ms: int
    egress_mib: int
    units: int


Voucher = Usage | MeteredUsage


def voucher_for(attestation: UsageAttestation, metered: bool) -> Voucher:
    """The voucher a witness signs when it accepts an attestation."""
    parties = (attestation.buyer, attestation.provider, attestation.lease_no)
    if metered:
        return MeteredUsage(*parties, attestation.ms, attestation.egress_mib, attestation.units)
    return Usage(*parties, attestation.ms)
