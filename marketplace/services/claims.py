"""What a claim says of itself: from the chain's events, for leases, jobs and receipts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from marketplace.domain.receipt import ReceiptClaim
from marketplace.services.common import iso, money
from marketplace.services.ports import Market
from marketplace.services.records import Json, LeaseRecord
from settlement.events import ChainEvent, ClaimClosed, Claimed, Contested


def claim_of(events: Iterable[ChainEvent]) -> Json | None:
    """A lease's claim as it is kept, amounts as text; None where nothing was claimed.

    `until` is the last second to contest, or once contested to rule. A closed one says how claim
    and bonds were divided.
    """
    claim: Json | None = None
    for event in events:
        if isinstance(event, Claimed):
            claim = {
                "ms": event.ms,
                "amount": str(event.amount),
                "until": event.until,
                "contested": False,
                "closed": None,
            }
        elif isinstance(event, Contested) and claim is not None:
            claim = {**claim, "until": event.until, "contested": True}
        elif isinstance(event, ClaimClosed) and claim is not None:
            bonds_and_rest = {
                "awarded": str(event.awarded),
                "bonds": str(event.bonds),
                "refunded": str(event.refunded),
            }
            claim = {**claim, "closed": bonds_and_rest}
    return claim


def claim_json(market: Market, lease: LeaseRecord) -> dict[str, Any] | None:
    """A lease's claim as both parties and the arbiter see it."""
    claim = lease.claim
    if claim is None:
        return None
    closed = claim["closed"]
    amount = int(claim["amount"])
    return {
        "lease_id": lease.id,
        "job_id": lease.job_id,
        "buyer": lease.buyer,
        "provider": lease.provider,
        "arbiter": lease.arbiter,
        "state": lease.state,
        "ms": claim["ms"],
        "settled_ms": int(lease.settled.get("ms", 0)),
        "amount": money(market, amount),
        "bond": money(market, amount),
        "contested": claim["contested"],
        "until": iso(claim["until"] * 1000),
        "awarded": None if closed is None else money(market, int(closed["awarded"])),
        "bonds_to_provider": None if closed is None else money(market, int(closed["bonds"])),
        "refunded": None if closed is None else money(market, int(closed["refunded"])),
    }


def receipt_claim(lease: LeaseRecord) -> ReceiptClaim | None:
    """The claim of a closed lease as its receipt shows it."""
    claim = lease.claim
    if claim is None or claim["closed"] is None:
        return None
    amount, awarded = int(claim["amount"]), int(claim["closed"]["awarded"])
    to_provider = int(claim["closed"]["bonds"])
    bonds = 2 * amount if claim["contested"] else amount
    return ReceiptClaim(
        claim["ms"], amount, awarded, claim["contested"], to_provider, bonds - to_provider
    )
