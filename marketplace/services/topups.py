"""Top-ups: written out for the buyer to send, because they move money of the buyer's account."""

from dataclasses import dataclass

from marketplace.db.store import Store
from marketplace.db.tables import LeaseRow
from marketplace.domain.drafts import top_up_lock
from marketplace.domain.life import LeaseState
from marketplace.errors import Conflict, NotFound
from marketplace.services.common import Principal, money
from marketplace.services.ports import Market
from marketplace.wire.jobs import TopUp
from marketplace.wire.orders import Transaction
from settlement.chain.calls import EscrowCalls, LeaseOrders
from settlement.orders import Ask, Bid

CALL_GAS = 300_000  # more than a top-up takes


@dataclass(frozen=True, slots=True)
class TopUps:
    """Jobs that are to run longer."""

    market: Market
    calls: EscrowCalls

    def prepare(self, store: Store, caller: Principal, job_id: str, seconds: int) -> TopUp:
        """What the buyer sends to run a job longer: its lease, the transaction, and the lock.

        Raises NotFound, Conflict, InvalidInput.
        """
        job = store.jobs.get(job_id)
        lease = store.leases.get(job.lease_id) if job else None
        if job is None or job.account != caller.account:
            raise NotFound("no such job")
        if lease is None or lease.state is not LeaseState.ACTIVE:
            raise Conflict("the job has no active lease to top up")
        orders, bid = _orders_of(store, lease)
        market = self.market
        lock = top_up_lock(
            seconds,
            orders.ask,
            rate=lease.rate,
            funded_seconds=lease.funded_seconds,
            left=max(0, bid.budget - job.spent - lease.lock),
            decimals=market.decimals,
            currency=market.currency,
        )
        call = Transaction(
            call="top_up",
            to=market.domain.verifying_contract,
            data=self.calls.top_up(orders, bid, seconds),
            gas=CALL_GAS,
        )
        return TopUp(lease_id=lease.id, transaction=call, lock=money(market, lock))


def _orders_of(store: Store, lease: LeaseRow) -> tuple[LeaseOrders, Bid]:
    """The orders that a lease was opened from, as the escrow wants them again."""
    ask_row, bid_row = store.asks.need(lease.ask_id), store.bids.need(lease.bid_id)
    ask, bid = Ask.from_message(ask_row.message), Bid.from_message(bid_row.message)
    return LeaseOrders(ask, bid.struct_hash(), bid.buyer, bid.witness), bid
