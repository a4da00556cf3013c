"""One poll for a whole witness: what each of its leases wants signed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marketplace.services.common import Principal
from marketplace.services.ports import Market, Store
from marketplace.services.records import LeaseRecord
from marketplace.services.views import (
    attestation_view,
    final_view,
    heartbeat_view,
    lease_view,
    outcome_view,
)
from marketplace.wire.leases import CloseRequest, Pending, PendingList

PENDING_MAX = 500


@dataclass(frozen=True, slots=True)
class Witnessing:
    """Work for witnesses."""

    market: Market

    def pending(self, store: Store, caller: Principal) -> PendingList:
        """Every open lease that the caller buys or witnesses, with what awaits a signature."""
        found: dict[str, LeaseRecord] = {}
        for role in ("buyer", "witness"):
            rows = store.leases.find(limit=PENDING_MAX, **_open(role, caller.account))
            found.update((row.id, row) for row in rows)
        return PendingList(data=tuple(self._entry(store, found[key]) for key in sorted(found)))

    def _entry(self, store: Store, lease: LeaseRecord) -> Pending:
        newest = store.attestations.one(
            lease_id=lease.id, sequence=lease.sequence, state="accepted"
        )
        unanswered = newest is not None and newest.voucher_signature is None
        final = final_view(lease) if lease.witness_signature is None else None
        close = None
        if final is not None:
            close = CloseRequest(
                message=final.message,
                meter_signature=final.meter_signature,
                outcome=outcome_view(lease),
            )
        return Pending(
            lease=lease_view(store, self.market, lease),
            attestation=attestation_view(newest) if newest and unanswered else None,
            close=close,
            heartbeat=None if lease.heartbeat_ms is None else heartbeat_view(lease),
        )


def _open(role: str, account: str) -> dict[str, Any]:
    return {"state": ("active", "stopped"), role: account}
