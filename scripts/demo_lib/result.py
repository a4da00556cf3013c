"""The JSON object of `scripts/demo --json`. Atoms are decimal text, as everywhere at the edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scripts.demo_lib.books import Books, SeenLease
from scripts.demo_lib.market import Market
from scripts.demo_lib.shopping import Purchase


def document(
    market: Market, purchases: Sequence[Purchase], books: Books, conserved: bool
) -> dict[str, Any]:
    """Chain, contracts, leases and jobs. `conserved`: the chain's books add up to the atom and the
    receipts say the same.
    """
    deployment, sheet = market.deployment, books.sheet
    return {
        "chain": {"rpc": market.chain.rpc_url, "chain_id": deployment.chain_id},
        "contracts": {
            "ComputeToken": deployment.token.address,
            "ComputeEscrow": deployment.escrow.address,
        },
        "leases": [
            _lease(purchase, books.leases[number])
            for purchase in purchases
            if (number := _number(purchase)) in books.leases
        ],
        "jobs": [_job(purchase) for purchase in purchases],
        "sheet": {
            "block": sheet.block,
            "deposits_atoms": str(sheet.deposits),
            "earned_atoms": str(sheet.earned),
            "fees_atoms": str(sheet.fees),
            "refunds_atoms": str(sheet.refunds),
            "untouched_atoms": str(sheet.untouched),
            "held_atoms": str(sheet.held),
        },
        "conserved": conserved,
    }


def _number(purchase: Purchase) -> bytes:
    return purchase.lease.lease_no if purchase.lease else b""


def _lease(purchase: Purchase, lease: SeenLease) -> dict[str, Any]:
    receipt = purchase.receipt
    return {
        "lease": purchase.lease.id if purchase.lease else None,
        "lease_no": "0x" + lease.state.lease_no.hex(),
        "job": purchase.job.id,
        "tier": receipt.tier if receipt else None,
        "simulated": receipt.simulated if receipt else None,
        "gpu_seconds": f"{receipt.gpu_seconds:f}" if receipt else None,
        "rate": f"{receipt.rate:f}" if receipt else None,
        "cost_atoms": str(lease.cost),
        "released_atoms": str(lease.released),
        "refunded_atoms": str(lease.refunded),
        "tx": list(dict.fromkeys(tx for _, tx in lease.transactions)),
    }


def _job(purchase: Purchase) -> dict[str, Any]:
    job = purchase.job
    reason = job.reason
    if job.no_match:
        changes = [change.text for change in job.no_match.relaxations] or [None]
        reason = f"{reason or 'no match'}: {changes[0]}"
    return {"job": job.id, "name": purchase.case.name, "state": job.state, "reason": reason}
