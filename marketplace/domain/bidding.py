"""From a job spec to the bid its buyer signs, and back: does a signed bid say what the job says?"""

from __future__ import annotations

from dataclasses import fields

from marketplace.domain.job import JobSpec
from marketplace.domain.jobfile import tiers_of
from marketplace.domain.tier import TierRegistry
from marketplace.errors import Problem
from settlement.eip712 import ZERO_ADDRESS, text32
from settlement.orders import FLAG_SHARED, Bid, TierLimit

_NO_UNIT = bytes(32)
# What the buyer and the market choose freely; everything else follows from the job.
_FREE = ("buyer", "witness", "opener", "max_fee_bps", "expiry", "salt")


def limits_of(spec: JobSpec, tiers: TierRegistry) -> tuple[TierLimit, ...]:
    """One limit per tier the job accepts, sorted by name: max_gpu_hour for every GPU, all in."""
    egress = spec.egress.max_price_nano if spec.egress else 0
    unit = spec.units.max_price_nano if spec.units else 0
    return tuple(
        TierLimit(text32(name), spec.limit_rate, egress, unit) for name in tiers_of(spec, tiers)
    )


def bid_template(
    spec: JobSpec,
    tiers: TierRegistry,
    *,
    buyer: str,
    witness: str,
    max_fee_bps: int,
    expiry: int,
    salt: int,
    opener: str = ZERO_ADDRESS,
) -> Bid:
    """The bid for a job: sizes, limits, duration, budget and hash from the spec, the rest as given.

    `expiry` is Unix time in seconds. Raises FieldError where a value does not fit its field.
    """
    return Bid(
        buyer=buyer,
        witness=witness,
        opener=opener,
        job_hash=spec.hash(),
        limits=limits_of(spec, tiers),
        gpu_milli=spec.gpu.gpu_milli,
        cpu_milli=spec.cpu_milli,
        memory_mib=spec.memory_mib,
        storage_mib=spec.storage_mib,
        egress_mib=spec.egress.max_mib if spec.egress else 0,
        units=spec.units.maximum if spec.units else 0,
        unit=text32(spec.units.name) if spec.units else _NO_UNIT,
        max_seconds=spec.max_seconds,
        budget=spec.max_total_atoms,
        nodes=1,
        flags=FLAG_SHARED if spec.gpu.shared else 0,
        max_fee_bps=max_fee_bps,
        expiry=expiry,
        salt=salt,
    )


def bid_problems(bid: Bid, spec: JobSpec, tiers: TierRegistry) -> list[Problem]:
    """Where a signed bid says something else than its job; empty when they agree."""
    free = {name: getattr(bid, name) for name in _FREE}
    expected = bid_template(spec, tiers, **free)
    names = {f.name: json for f, (_, json) in zip(fields(bid), Bid.schema, strict=True)}
    return [
        Problem(f"/bid/{names[f.name]}", "differs from what the job spec says")
        for f in fields(bid)
        if getattr(bid, f.name) != getattr(expected, f.name)
    ]
