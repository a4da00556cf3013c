"""One poll for a whole witness: what each of its leases wants signed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marketplace.db.store import Store
from marketplace.db.tables import AttestationRow, LeaseRow
from marketplace.services.attestations import Attestations
from marketplace.services.common import Principal, iso
from marketplace.services.leases import Leases

PENDING_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Witnessing:
    """Work for witnesses."""

    leases: Leases
    attestations: Attestations

    def pending(self, store: Store, caller: Principal) -> list[dict[str, Any]]:
        """Every open lease that the caller buys or witnesses, with what awaits a signature."""
        rows = store.leases.open_for_witness(caller.account, PENDING_MAX)
        store.jobs.hold(row.job_id for row in rows)
        newest = store.attestations.newest_accepted([row.id for row in rows])
        return [self._entry(store, row, newest.get(row.id)) for row in rows]

    def _entry(
        self, store: Store, lease: LeaseRow, newest: AttestationRow | None
    ) -> dict[str, Any]:
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
