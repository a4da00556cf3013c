"""From a lease, as the server tells of it, to a job this node may run."""

from __future__ import annotations

import re
from dataclasses import dataclass

from marketplace.agent.errors import AgentError
from marketplace.agent.inventory import Inventory
from marketplace.domain.job import JobSpec
from marketplace.domain.jobfile import parse_job
from marketplace.errors import InvalidJob
from marketplace.wire.leases import Lease, LeaseTerms
from settlement.orders import Ask, Bid, lease_no
from settlement.silence import unseen_ms

_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")


class NotOurs(AgentError):
    """A lease that this node must not work on: its orders do not say what the server says."""

    code = "not_ours"


@dataclass(frozen=True, slots=True)
class Assignment:
    """One lease to work on. Sizes are never zero; times are Unix seconds where they are points."""

    lease_id: str
    job_id: str
    buyer: str
    provider: str
    witness: str
    lease_no: bytes
    spec: JobSpec
    gpu_milli: int
    cpu_milli: int
    memory_mib: int
    storage_mib: int
    interval_ms: int
    start: int
    end: int
    start_limit_seconds: int
    max_seconds: int
    budget_limited: bool
    units_cap: int
    metered: bool
    gpus: tuple[int, ...] = ()

    @property
    def start_deadline_ms(self) -> int:
        """Unix time by which the job must be ready."""
        return (self.start + self.start_limit_seconds) * 1000

    @property
    def grace_ms(self) -> int:
        """How long work goes on without a countersignature."""
        return unseen_ms(self.interval_ms)


def assign(lease: Lease, ask: Ask, bid: Bid, meter: str, inventory: Inventory) -> Assignment:
    """Check a lease against its signed orders and read its job.

    What the server says beyond them decides nothing: the lease number must follow from the orders
    and our meter key, and the job must have the hash that the buyer signed. Raises NotOurs.
    """
    if not _ID.fullmatch(lease.id):  # it names a folder and a cgroup here
        raise NotOurs(f"{lease.id!r:.100} is no lease id")
    number = lease_no(bid.struct_hash(), ask.struct_hash(), meter)
    if ask.meter != meter or number != lease.lease_no:
        raise NotOurs(f"{lease.id}: the orders and our meter key open another lease")
    if (lease.buyer, lease.provider) != (bid.buyer, ask.provider):
        raise NotOurs(f"{lease.id}: buyer or provider is not who signed the orders")
    if lease.terms is None or lease.job is None:
        raise NotOurs(f"{lease.id}: no terms or no job yet")
    try:
        spec = parse_job(lease.job.spec.to_json(), packed=True)
    except InvalidJob as error:
        raise NotOurs(f"{lease.id}: the job cannot be read: {error}") from error
    if spec.hash() != bid.job_hash:
        raise NotOurs(f"{lease.id}: the job is not the one whose hash the buyer signed")
    return _assignment(lease, lease.terms, bid, spec, inventory)


def _assignment(
    lease: Lease, terms: LeaseTerms, bid: Bid, spec: JobSpec, inventory: Inventory
) -> Assignment:
    def share(size: int) -> int:
        """What the bid leaves open is the part of the node that its GPUs are."""
        return max(1, size * bid.gpu_milli // (1000 * len(inventory.gpus)))

    return Assignment(
        lease_id=lease.id,
        job_id=lease.job_id,
        buyer=lease.buyer,
        provider=lease.provider,
        witness=bid.witness,
        lease_no=lease.lease_no,
        spec=spec,
        gpu_milli=bid.gpu_milli,
        cpu_milli=bid.cpu_milli or share(inventory.cpu_milli),
        memory_mib=bid.memory_mib or share(inventory.memory_mib),
        storage_mib=bid.storage_mib or share(inventory.storage_mib),
        interval_ms=lease.interval_ms,
        start=terms.end - terms.funded_seconds,
        end=terms.end,
        start_limit_seconds=terms.start_limit_seconds,
        max_seconds=min(terms.max_seconds or bid.max_seconds, bid.max_seconds),
        budget_limited=terms.budget_limited,
        units_cap=bid.units,
        metered=bid.egress_mib > 0 or bid.units > 0,
        gpus=lease.gpus,
    )
