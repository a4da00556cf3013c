"""Documents as the API writes them, for tests that need no market behind them."""

from __future__ import annotations

from typing import Any

from marketplace.domain.jobfile import parse_job
from tests.factories import job_json

WHEN = "2027-01-15T08:00:00.000Z"
ADDRESS = "0x" + "ab" * 20


def money(atoms: int) -> dict[str, str]:
    """Atoms of a token with 18 decimals."""
    whole, part = divmod(atoms, 10**18)
    amount = f"{whole}.{part:018}".rstrip("0").rstrip(".")
    return {"amount": amount, "currency": "CMP", "atoms": str(atoms)}


def job(**changes: Any) -> dict[str, Any]:
    """A job that has just been bought."""
    spec = parse_job(job_json())
    empty = ("reason", "detail", "ending", "lease_id", "lease_no", "provider", "witness",
             "no_match", "exit_code", "outputs", "cost", "matched_at", "started_at",
             "finished_at")  # fmt: skip
    document = {
        "id": "job_1",
        "account": ADDRESS,
        "name": spec.name,
        "state": "queued",
        "bid_id": "bid_1",
        "job_hash": "0x" + spec.hash().hex(),
        "spec": spec.to_json(),
        "max_cost": money(5),
        "created_at": WHEN,
    }
    return {**dict.fromkeys(empty), **document, **changes}
