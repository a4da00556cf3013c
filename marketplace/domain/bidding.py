"""From a job spec to the bid its buyer signs, and back: does a signed bid say what the job says?

Also what a buyer signs or sends for a bid that is at work: how much a top-up locks.
"""

from dataclasses import fields
from typing import Any

from marketplace.domain.job import JobSpec
from marketplace.domain.pricing import from_scaled
from marketplace.domain.tier import TierRegistry
from marketplace.errors import InvalidInput, Problem
from settlement.eip712 import ZERO_ADDRESS, text32
from settlement.errors import FieldError
from settlement.orders import FLAG_SHARED, Ask, Bid, TierLimit
from settlement.units import time_lock

EXPIRY_SLACK_SECONDS = 3_600
_NO_UNIT = bytes(32)
# What the buyer and the market choose freely; everything else follows from the job.
_FREE = ("buyer", "witness", "opener", "max_fee_bps", "expiry", "salt")


def bid_template(spec: JobSpec, tiers: TierRegistry, **free: Any) -> Bid:
    """The bid for a job: sizes, limits, duration, budget and hash from the spec, `free` as given.

    It has one limit per tier that the job accepts, sorted by name: max_gpu_hour for every GPU, all
    in. Raises FieldError if a value does not fit its field.
    """
    egress, units = spec.egress, spec.units
    prices = (egress.max_price_nano if egress else 0, units.max_price_nano if units else 0)
    return Bid(
        job_hash=spec.hash(),
        limits=tuple(
            TierLimit(text32(name), spec.limit_rate, *prices) for name in tiers.select(spec.gpu)
        ),
        gpu_milli=spec.gpu.gpu_milli,
        cpu_milli=spec.cpu_milli,
        memory_mib=spec.memory_mib,
        storage_mib=spec.storage_mib,
        egress_mib=egress.max_mib if egress else 0,
        units=units.maximum if units else 0,
        unit=text32(units.name) if units else _NO_UNIT,
        max_seconds=spec.max_seconds,
        budget=spec.max_total_atoms,
        nodes=1,
        flags=FLAG_SHARED if spec.gpu.shared else 0,
        **{"opener": ZERO_ADDRESS, **free},
    )


def bid_of(spec: JobSpec, tiers: TierRegistry, *, fee_bps: int, now: int, **free: str | int) -> Bid:
    """The bid that a buyer signs for a job: good for as long as the job may take to start, to move
    to another ask and to run, and for an hour more.

    `fee_bps` and `opener` are the market's, `now` is Unix time in seconds. Raises InvalidInput.
    """
    seconds = spec.start_deadline_seconds + spec.retry_seconds + spec.max_seconds
    expiry = now + seconds + EXPIRY_SLACK_SECONDS
    try:
        return bid_template(spec, tiers, max_fee_bps=fee_bps, expiry=expiry, **free)
    except FieldError as error:
        raise InvalidInput([Problem(error.pointer, error.detail)]) from error


def top_up_lock(
    seconds: int,
    ask: Ask,
    *,
    rate: int,
    funded_seconds: int,
    left: int,
    decimals: int,
    currency: str,
) -> int:
    """Atoms that running a lease `seconds` longer locks at most; its bid may still spend `left`.

    Raises InvalidInput if the ask allows less time, or the bid less money.
    """
    longest = ask.max_seconds + ask.start_limit_seconds - funded_seconds
    if not 0 < seconds <= longest:
        detail = f"must be between 1 and {max(0, longest)} seconds, the ask's longest time"
        raise InvalidInput([Problem("/duration", detail)])
    before = time_lock(rate, funded_seconds, decimals)
    more = time_lock(rate, funded_seconds + seconds, decimals) - before
    if more > left:
        costs, rest = (f"{from_scaled(atoms, decimals)} {currency}" for atoms in (more, left))
        detail = f"costs up to {costs}; the bid's budget has {rest} left"
        raise InvalidInput([Problem("/duration", detail)])
    return more


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
