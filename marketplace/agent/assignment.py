"""From a lease, as the server tells of it, to a job this node may run."""

import re
from dataclasses import dataclass

from marketplace.agent.errors import NotOurs
from marketplace.agent.journal import LeaseEntry
from marketplace.agent.node import ThisNode
from marketplace.domain.job import JobSpec, parse_job
from marketplace.errors import InvalidJob
from marketplace.wire.leases import Lease
from settlement.orders import Ask, Bid, lease_no
from settlement.silence import unseen_ms
from settlement.units import Sizes

_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")


@dataclass(frozen=True, slots=True)
class Assignment:
    """The job of one lease and what it may use. Sizes are never zero; `gpus` are reserved for it.

    `end` is in Unix seconds; `start_deadline_ms`, by which the job must be ready, in Unix ms.
    `grace_ms` is how long work goes on without a countersignature.
    """

    entry: LeaseEntry
    spec: JobSpec
    sizes: Sizes
    gpus: tuple[int, ...]
    interval_ms: int
    grace_ms: int
    end: int
    start_deadline_ms: int
    max_seconds: int
    budget_limited: bool
    units_cap: int


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
    terms = lease.terms
    if terms is None or lease.job is None:
        raise NotOurs(f"{lease.id}: no terms or no job yet")
    try:
        spec = parse_job(lease.job.spec, packed=True)
    except InvalidJob as error:
        raise NotOurs(f"{lease.id}: the job cannot be read: {error}") from error
    if spec.hash() != bid.job_hash:
        raise NotOurs(f"{lease.id}: the job is not the one whose hash the buyer signed")
    metered = bid.egress_mib > 0 or bid.units > 0
    names = (lease.id, lease.job_id, bid.buyer, ask.provider, number, node.domain, bid.witness)
    return Assignment(
        entry=LeaseEntry(*names, metered, spec.outputs),
        spec=spec,
        sizes=_sizes(node, bid),
        gpus=lease.gpus,
        interval_ms=lease.interval_ms,
        grace_ms=unseen_ms(lease.interval_ms),
        end=terms.end,
        start_deadline_ms=(terms.end - terms.funded_seconds + terms.start_limit_seconds) * 1000,
        max_seconds=min(terms.max_seconds or bid.max_seconds, bid.max_seconds),
        budget_limited=terms.budget_limited,
        units_cap=bid.units,
    )


def _sizes(node: ThisNode, bid: Bid) -> Sizes:
    """What the bid leaves open is the part of the node that its GPUs are."""
    offered, whole = node.inventory, 1000 * len(node.inventory.gpus)
    sizes = {
        name: getattr(bid, name) or max(1, getattr(offered, name) * bid.gpu_milli // whole)
        for name in ("cpu_milli", "memory_mib", "storage_mib")
    }
    return Sizes(bid.gpu_milli, **sizes)
