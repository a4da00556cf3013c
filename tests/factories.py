"""Builders of domain values: valid by default, so that a test names only what it is about."""

from __future__ import annotations

from typing import Any

from marketplace.data import load_tiers
from marketplace.domain.job import JobSpec, parse_job
from marketplace.domain.order import NodeFacts, RestingAsk, RestingBid, Wants
from settlement.eip712 import ZERO_ADDRESS, checksum, text32
from settlement.leases import LeaseStatus, LeaseView
from settlement.orders import FLAG_SHARED, Ask, Bid, OpenedFrom, Prices, TierLimit

NOW = 1_800_000_000
HOUR = 3600
H100 = "H100-80GB-SXM"
A100 = "A100-80GB-SXM"
NANO = 10**9


def address(number: int) -> str:
    """A distinct account, as orders write it."""
    return checksum(f"0x{number:040x}")


PROVIDER, METER, BUYER, WITNESS = (address(n) for n in (0xA1, 0xA2, 0xB1, 0xB2))


def make_ask(**changes: Any) -> Ask:
    """One H100 at 2 tokens an hour, 8 cores, 64 GiB, 100 GiB, from 1 s to 24 h."""
    tier = text32(changes.pop("tier", H100))
    unit = text32(changes.pop("unit", ""))
    fields: dict[str, Any] = {
        "provider": PROVIDER,
        "meter": METER,
        "opener": ZERO_ADDRESS,
        "node": 1,
        "gpu_milli": 1000,
        "cpu_milli": 8000,
        "memory_mib": 65_536,
        "storage_mib": 102_400,
        "floor": Prices(2 * NANO),
        "min_seconds": 1,
        "max_seconds": 24 * HOUR,
        "start_limit_seconds": 60,
        "notice_seconds": 0,
        "starts_at": 0,
        "flags": 0,
        "max_fee_bps": 1000,
        "expiry": NOW + 24 * HOUR,
        "salt": 1,
    }
    return Ask(tier=tier, unit=unit, **{**fields, **changes})


def make_limit(tier: str = H100, gpu_hour: int = 3 * NANO, gpu_milli: int = 1000) -> TierLimit:
    """At most `gpu_hour` (1e-9 token) per GPU, all in."""
    return TierLimit(text32(tier), gpu_hour * gpu_milli)


def make_bid(**changes: Any) -> Bid:
    """One H100 for an hour at 3 tokens at most, 100 tokens in all."""
    unit = text32(changes.pop("unit", ""))
    gpu_milli = changes.get("gpu_milli", 1000)
    fields: dict[str, Any] = {
        "buyer": BUYER,
        "witness": WITNESS,
        "opener": ZERO_ADDRESS,
        "job_hash": bytes(32),
        "limits": (make_limit(gpu_milli=gpu_milli),),
        "gpu_milli": 1000,
        "cpu_milli": 1000,
        "memory_mib": 1024,
        "storage_mib": 0,
        "egress_mib": 0,
        "units": 0,
        "max_seconds": HOUR,
        "max_start_seconds": 600,
        "min_notice_seconds": 0,
        "budget": 100 * 10**18,
        "nodes": 1,
        "flags": FLAG_SHARED if gpu_milli < 1000 else 0,
        "max_fee_bps": 1000,
        "expiry": NOW + 24 * HOUR,
        "salt": 1,
    }
    return Bid(unit=unit, **{**fields, **changes})


def shown_lease(opened: OpenedFrom, **changes: Any) -> LeaseView:
    """What a node of the chain shows of the lease of these orders, just after it opened."""
    ask, bid = opened.ask, opened.bid
    start, paid = changes.pop("start", NOW), changes.pop("paid_seconds", bid.max_seconds)
    late = changes.get("start_seconds", ask.start_limit_seconds)
    fields: dict[str, Any] = {
        "status": LeaseStatus.ACTIVE,
        "metered": bid.egress_mib > 0 or bid.units > 0,
        "again": False,
        "rate": opened.prices.rate(bid.sizes()),
        "used_ms": 0,
        "start": start,
        "end": start + paid + late,
        "funded": paid + late,
        "start_seconds": late,
        "gpu_milli": bid.gpu_milli,
        "node": ask.node,
        "released": 0,
        "locked": 1,
    }
    return LeaseView(**{**fields, **changes})


def resting_ask(
    number: int, *, facts: NodeFacts | None = None, price: int | None = None, **changes: Any
) -> RestingAsk:
    """`ask_<number>`, arrived as number; each on its own node unless said; `price` per GPU-hour."""
    changes.setdefault("node", number)
    changes.setdefault("salt", number)
    if price is not None:
        changes.setdefault("floor", Prices(price))
    known = facts or NodeFacts(f"node_{changes['node']}", "eu")
    return RestingAsk(f"ask_{number}", make_ask(**changes), known, number)


def resting_bid(
    number: int, *, wants: Wants | None = None, price: int | None = None, **changes: Any
) -> RestingBid:
    """`bid_<number>`, arrived as number; `price` is the most it pays per GPU-hour."""
    changes.setdefault("salt", number)
    tried = changes.pop("tried", frozenset())
    left = changes.pop("budget_left", None)
    if price is not None:
        milli = changes.get("gpu_milli", 1000)
        changes.setdefault("limits", (make_limit(gpu_hour=price, gpu_milli=milli),))
    bid = make_bid(**changes)
    asked = wants or Wants(rests=True, start_deadline_seconds=HOUR)
    return RestingBid(f"bid_{number}", bid, asked, number, tried, left)


def job_json(**changes: Any) -> dict[str, Any]:
    """A small packed job file's object."""
    return {
        "name": "train",
        "command": ["python", "train.py"],
        "resources": {"gpu": "H100:1", "cpu": 1, "memory": "1GB"},
        "pricing": {"max_gpu_hour": "2.50"},
        "max_duration": "1h",
        **changes,
    }


def make_job(**changes: Any) -> JobSpec:
    """The spec of `job_json`."""
    return parse_job(job_json(**changes), tiers=load_tiers())
