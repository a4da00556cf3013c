"""One poll for a whole witness: what each of its leases wants signed."""

from dataclasses import dataclass

from marketplace.db.store import Store
from marketplace.db.tables import AttestationRow, LeaseRow
from marketplace.services.common import Principal
from marketplace.services.ports import Market
from marketplace.services.views import (
    attestation_view,
    final_view,
    heartbeat_view,
    lease_view,
    outcome_view,
)
from marketplace.wire.leases import CloseRequest, Pending, PendingList

PENDING_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Witnessing:
    """Work for witnesses."""

    market: Market

    def pending(self, store: Store, caller: Principal) -> PendingList:
        """Every open lease that the caller buys or witnesses, with what awaits a signature."""
        rows = store.leases.open_for_witness(caller.account, PENDING_MAX)
        store.jobs.hold(row.job_id for row in rows)
        newest = store.attestations.newest_accepted([row.id for row in rows])
        return PendingList(data=tuple(self._entry(store, row, newest.get(row.id)) for row in rows))

    def _entry(self, store: Store, lease: LeaseRow, newest: AttestationRow | None) -> Pending:
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
