"""One poll for a whole witness: what each of its leases wants signed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marketplace.services.attestations import Attestations
from marketplace.services.common import Principal, iso
from marketplace.services.leases import Leases
from marketplace.services.ports import Store
from marketplace.services.records import LeaseRecord

PENDING_MAX = 500


@dataclass(frozen=True, slots=True)
class Witnessing:
    """Work for witnesses."""

    leases: Leases
    attestations: Attestations

    def pending(self, store: Store, caller: Principal) -> list[dict[str, Any]]:
        """Every open lease that the caller buys or witnesses, with what awaits a signature."""
        found: dict[str, LeaseRecord] = {}
        for role in ("buyer", "witness"):
            rows = store.leases.find(limit=PENDING_MAX, **_open(role, caller.account))
            found.update((row.id, row) for row in rows)
        return [self._entry(store, found[key]) for key in sorted(found)]

    def _entry(self, store: Store, lease: LeaseRecord) -> dict[str, Any]:
        newest = store.attestations.one(
            lease_id=lease.id, sequence=lease.sequence, state="accepted"
        )
        unanswered = newest is not None and newest.voucher_signature is None
        close = None
        if lease.close is not None and lease.witness_signature is None:
            close = {
                "message": lease.close,
                "meter_signature": lease.meter_signature,
                "outcome": lease.outcome,
            }
        heartbeat = None
        if lease.heartbeat_ms is not None:
            heartbeat = {"count": lease.heartbeat_count, "last_at": iso(lease.heartbeat_ms)}
        return {
            "lease": self.leases.to_json(store, lease),
            "attestation": self.attestations.to_json(newest) if newest and unanswered else None,
            "close": close,
            "heartbeat": heartbeat,
        }


def _open(role: str, account: str) -> dict[str, Any]:
    return {"state": ("active", "stopped"), role: account}
