"""Receipts of closed leases: written once, shown to their parties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marketplace.db.store import Store
from marketplace.db.tables import LeaseRow, ReceiptRow
from marketplace.domain.receipt import ChainEvent, ReceiptInput, build_receipt
from marketplace.errors import NotFound
from marketplace.services.common import Principal, emit, iso, new_id
from marketplace.services.ports import Clock, Market
from settlement.events import Opened, ToppedUp
from settlement.orders import Bid, Prices
from settlement.usage import UsageVector


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

    def to_json(self, row: ReceiptRow) -> dict[str, Any]:
        """A receipt as its parties see it."""
        return {
            "id": row.id,
            "buyer": row.buyer,
            "provider": row.provider,
            **row.document,
            "created_at": iso(row.created_ms),
        }

    def write(self, store: Store, lease: LeaseRow) -> None:
        """Write the receipt of a closed lease, if there is none, and tell its job's watchers."""
        if store.receipts.is_written(lease.id):
            return
        document = self._document(store, lease)
        now_ms = self.clock()
        store.receipts.add(
            ReceiptRow(
                id=new_id("rcpt"),
                job_id=lease.job_id,
                lease_id=lease.id,
                buyer=lease.buyer,
                provider=lease.provider,
                document=document,
                created_ms=now_ms,
            )
        )
        emit(store, lease.job_id, "receipt", document, now_ms)

    def _document(self, store: Store, lease: LeaseRow) -> dict[str, object]:
        """Usage → rate → cost → transactions of a closed lease."""
        bid_row, ask_row = store.bids.need(lease.bid_id), store.asks.need(lease.ask_id)
        node = store.nodes.get(lease.node_id)
        events = store.chain_events(lease.lease_no)
        bid = Bid.from_message(bid_row.message)
        opened = next(x.event for x in events if isinstance(x.event, Opened))
        added = sum(x.event.locked for x in events if isinstance(x.event, ToppedUp))
        counted = {"egress_mib": 0, "units": 0}
        used = {**counted, **lease.settled}
        seen: dict[tuple[str, str], ChainEvent] = {}
        for x in events:
            seen[(x.event.name, x.tx_hash)] = ChainEvent(x.event.name, x.tx_hash, x.block_number)
        source = ReceiptInput(
            lease_id=lease.id,
            job_id=lease.job_id,
            tier=ask_row.tier,
            simulated=bool(node and node.simulated),
            prices=Prices.from_message(lease.prices),
            sizes=bid.sizes(),
            unit=lease.unit,
            used=UsageVector(ms=used["ms"], egress_mib=used["egress_mib"], units=used["units"]),
            readings=store.attestations.accepted_count(lease.id),
            locked=opened.locked + added,
            released=lease.released,
            refunded=lease.refunded,
            fee_bps=self.market.fee_bps,
            transactions=tuple(seen.values()),
            decimals=self.market.decimals,
        )
        named = {"lease_no": lease.lease_no, "witness": lease.witness}
        return {**build_receipt(source).to_json(), **named}
