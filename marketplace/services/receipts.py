"""Receipts of closed leases: written once, shown to their parties."""

from __future__ import annotations

from dataclasses import dataclass

from marketplace.db.store import Store
from marketplace.db.tables import LeaseRow, ReceiptRow
from marketplace.errors import NotFound
from marketplace.services.common import Principal, emit, new_id
from marketplace.services.ports import Clock, Market
from marketplace.services.views import new_receipt


@dataclass(frozen=True, slots=True)
class Receipts:
    """Receipts of closed leases."""

    market: Market
    clock: Clock

    def of_job(self, store: Store, caller: Principal, job_id: str) -> list[ReceiptRow]:
        """Receipts of a job's leases, oldest first: for its buyer and its providers."""
        rows = store.receipts.of_job(job_id)
        mine = [r for r in rows if caller.is_operator or caller.account in (r.buyer, r.provider)]
        if not mine:
            raise NotFound("no receipt yet: it is written when the lease is closed on chain")
        return mine

    def write(self, store: Store, lease: LeaseRow) -> None:
        """Write the receipt of a closed lease, if there is none, and tell its job's watchers."""
        if store.receipts.is_written(lease.id):
            return
        now_ms = self.clock()
        receipt = new_receipt(store, self.market, lease, new_id("rcpt"), now_ms)
        store.receipts.add(
            ReceiptRow(
                id=receipt.id,
                job_id=lease.job_id,
                lease_id=lease.id,
                buyer=lease.buyer,
                provider=lease.provider,
                document=receipt.to_json(),
                created_ms=now_ms,
            )
        )
        emit(store, lease.job_id, "receipt", receipt, now_ms)
