"""Receipts of closed leases: written once from rows and chain events, shown to their parties."""

from dataclasses import dataclass

from marketplace.db.store import Store
from marketplace.db.tables import LeaseRow, ReceiptRow
from marketplace.domain.receipt import ReceiptInput, charges_of, gpu_seconds
from marketplace.errors import NotFound
from marketplace.services.common import Principal, emit, money, new_id
from marketplace.services.ports import Clock, Market
from marketplace.services.views import answer_of, rate_per_hour, usage_view
from marketplace.wire.base import time_of
from marketplace.wire.jobs import Receipt, ReceiptLine, ReceiptTransaction
from marketplace.wire.leases import Used
from settlement.events import Opened, ToppedUp
from settlement.orders import Bid, Prices
from settlement.usage import UsageVector


@dataclass(frozen=True, slots=True)
class Receipts:
    market: Market
    clock: Clock

    def of_job(self, store: Store, caller: Principal, job_id: str) -> list[ReceiptRow]:
        """Receipts of a job's leases, in order: for its buyer and its providers."""
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
        row = ReceiptRow(
            id=receipt.id,
            job_id=lease.job_id,
            lease_id=lease.id,
            buyer=lease.buyer,
            provider=lease.provider,
            document=receipt.to_json(),
            created_ms=now_ms,
        )
        store.receipts.add(row)
        emit(store, lease.job_id, "receipt", receipt, now_ms)


def receipt_view(row: ReceiptRow) -> Receipt:
    """A receipt as its parties see it."""
    return Receipt.model_validate(row.document)


def new_receipt(
    store: Store, market: Market, lease: LeaseRow, receipt_id: str, now_ms: int
) -> Receipt:
    """Usage → rate → cost → transactions of a closed lease, from rows and the chain's events."""
    events = store.chain_events(lease.lease_no)
    used = usage_view(Used, lease.settled)
    sizes = Bid.from_message(store.bids.need(lease.bid_id).message).sizes()
    # Each transaction is listed once for each kind of its events.
    seen = {(type(x.event).__name__, x.tx_hash): x.block_number for x in events}
    charges = charges_of(
        ReceiptInput(
            prices=Prices.from_message(lease.prices),
            sizes=sizes,
            unit=lease.unit,
            used=UsageVector(**dict(used)),
            locked=sum(x.event.locked for x in events if isinstance(x.event, Opened | ToppedUp)),
            released=lease.released,
            refunded=lease.refunded,
            fee_bps=market.fee_bps,
            decimals=market.decimals,
        )
    )
    return answer_of(
        Receipt,
        lease,
        id=receipt_id,
        lease_id=lease.id,
        tier=store.asks.need(lease.ask_id).tier,
        simulated=store.nodes.need(lease.node_id).simulated,
        readings=store.attestations.accepted_count(lease.id),
        used_ms=used.ms,
        gpu_seconds=gpu_seconds(used.ms, sizes.gpu_milli),
        rate=rate_per_hour(charges.rate),
        rate_unit="token per hour",
        lines=tuple(
            answer_of(ReceiptLine, charge, cost=money(market, charge.atoms))
            for charge in charges.lines
        ),
        gross=money(market, charges.gross),
        fee=money(market, charges.fee),
        net=money(market, charges.net),
        locked=money(market, charges.source.locked),
        released=money(market, lease.released),
        refunded=money(market, lease.refunded),
        conserved=charges.conserved,
        transactions=tuple(
            ReceiptTransaction(kind=kind, tx_hash=tx_hash, block=block)
            for (kind, tx_hash), block in seen.items()
        ),
        created_at=time_of(now_ms),
    )
