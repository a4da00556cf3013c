"""From a lease, as the server tells of it, to a job this node may run."""

from __future__ import annotations

import re
from dataclasses import dataclass

from marketplace.agent.errors import AgentError
from marketplace.agent.journal import LeaseEntry
from marketplace.agent.node import ThisNode
from marketplace.domain.job import JobSpec, parse_job
from marketplace.errors import InvalidJob
from marketplace.wire.leases import Lease, LeaseTerms
from settlement.orders import Ask, Bid, lease_no
from settlement.silence import unseen_ms
from settlement.units import Sizes

_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")


class NotOurs(AgentError):
    """A lease that this node must not work on: its orders do not say what the server says."""

    code = "not_ours"


@dataclass(frozen=True, slots=True)
class Assignment:
    """The job of one lease and what it may use. Sizes are never zero; `gpus` are reserved for it.

    `start` and `end` are Unix seconds.
    """

    entry: LeaseEntry
    spec: JobSpec
    sizes: Sizes
    gpus: tuple[int, ...]
    interval_ms: int
    start: int
    end: int
    start_limit_seconds: int
    max_seconds: int
    budget_limited: bool
    units_cap: int

    @property
    def start_deadline_ms(self) -> int:
        """Unix time by which the job must be ready."""
        return (self.start + self.start_limit_seconds) * 1000

    @property
    def grace_ms(self) -> int:
        """How long work goes on without a countersignature."""
        return unseen_ms(self.interval_ms)


def assign(node: ThisNode, lease: Lease, ask: Ask, bid: Bid) -> Assignment:
    """Check a lease against its signed orders and read its job.

    What the server says beyond them decides nothing: the lease number must follow from the orders
    and our meter key, and the job must have the hash that the buyer signed. Raises NotOurs.
    """
    if not _ID.fullmatch(lease.id):  # it names a folder and a cgroup here
        raise NotOurs(f"{lease.id!r:.100} is not a lease id")
    meter = node.signer.address
    number = lease_no(bid.struct_hash(), ask.struct_hash(), meter)
    if ask.meter != meter or number != lease.lease_no:
        raise NotOurs(f"{lease.id}: the orders and our meter key open another lease")
    if (lease.buyer, lease.provider) != (bid.buyer, ask.provider):
        raise NotOurs(f"{lease.id}: buyer or provider is not who signed the orders")
    if lease.terms is None or lease.job is None:
        raise NotOurs(f"{lease.id}: no terms or no job yet")
    try:
        spec = parse_job(lease.job.spec, packed=True)
    except InvalidJob as error:
        raise NotOurs(f"{lease.id}: the job cannot be read: {error}") from error
    if spec.hash() != bid.job_hash:
        raise NotOurs(f"{lease.id}: the job is not the one whose hash the buyer signed")
    entry = LeaseEntry(
        lease_id=lease.id,
        job_id=lease.job_id,
        buyer=bid.buyer,
        provider=ask.provider,
        lease_no=number,
        domain=node.domain,
        witness=bid.witness,
        metered=bid.egress_mib > 0 or bid.units > 0,
        outputs=spec.outputs,
    )
    return _assignment(node, entry, spec, lease, lease.terms, bid)


def _assignment(
    node: ThisNode, entry: LeaseEntry, spec: JobSpec, lease: Lease, terms: LeaseTerms, bid: Bid
) -> Assignment:
    def share(size: int) -> int:
        """What the bid leaves open is the part of the node that its GPUs are."""
        return max(1, size * bid.gpu_milli // (1000 * len(node.inventory.gpus)))

    return Assignment(
        entry=entry,
        spec=spec,
        sizes=Sizes(
            bid.gpu_milli,
            bid.cpu_milli or share(node.inventory.cpu_milli),
            bid.memory_mib or share(node.inventory.memory_mib),
            bid.storage_mib or share(node.inventory.storage_mib),
        ),
        gpus=lease.gpus,
        interval_ms=lease.interval_ms,
        start=terms.end - terms.funded_seconds,
        end=terms.end,
        start_limit_seconds=terms.start_limit_seconds,
        max_seconds=min(terms.max_seconds or bid.max_seconds, bid.max_seconds),
        budget_limited=terms.budget_limited,
        units_cap=bid.units,
    )
