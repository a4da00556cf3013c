"""The JSON object of `scripts/demo --json`. Atoms are decimal text, as everywhere at the edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from marketplace.sdk import Receipt
from scripts.demo_lib.books import Books, SeenLease
from scripts.demo_lib.market import Market
from scripts.demo_lib.purse import DemoPurse
from scripts.demo_lib.shopping import Purchase


def document(
    market: Market,
    purchases: Sequence[Purchase],
    purse: DemoPurse,
    books: Books,
    conserved: bool,
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
            _lease(receipt, books.leases[receipt.lease_no])
            for purchase in purchases
            for receipt in purchase.receipts
            if receipt.lease_no in books.leases
        ],
        "jobs": [_job(purchase) for purchase in purchases],
        "purse": purse.to_json(),
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


def _lease(receipt: Receipt, lease: SeenLease) -> dict[str, Any]:
    return {
        "lease": receipt.lease_id,
        "lease_no": "0x" + lease.state.lease_no.hex(),
        "job": receipt.job_id,
        "tier": receipt.tier,
        "simulated": receipt.simulated,
        "gpu_seconds": f"{receipt.gpu_seconds:f}",
        "rate": f"{receipt.rate:f}",
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
