"""Vouchers into settlements, leases whose time is over into refunds, openings that failed."""

import re
from dataclasses import dataclass

from marketplace.db.store import Database, Store
from marketplace.db.tables import BidRow, LeaseRow, VoucherRow
from marketplace.domain.advance import Fault, OpeningFailed
from marketplace.domain.life import LEASE_OPEN
from marketplace.services.common import new_id
from marketplace.services.leases import ref_of
from marketplace.services.lives import Lives
from marketplace.services.ports import Clock, Market
from settlement.attestation import MeteredUsage, Usage
from settlement.chain.calls import EscrowCalls, SettlementEntry
from settlement.ports import BlockRef, Intent, IntentKind, IntentState

# What the buyer's side alone can be blamed for: another ask would fail, too.
BUYERS_FAULTS = ("InsufficientBalance", "BudgetTooSmall", "NonceUsed", "NotLatestLease")
# What makes an ask useless for every bid, not only for this one.
ASKS_FAULTS = ("InvalidSignature", "OrderExpired", "CancelledOrder")
OPEN_ALREADY = "LeaseExists"  # no failure: another transaction opened this very lease
RETRY_S_MIN, RETRY_S_MAX = 5, 60
# So that gas fits one transaction (2**24, EIP-7825), and geth's cap of 1 ether up to 90 gwei: the
# dearest entry, counted and a new provider's first, takes 44,000, and the relayer adds a quarter.
BATCH_MAX = 200
# An intent that was tried and could not be sent for so long no longer holds its vouchers. They are
# cumulative: where it goes out after all, the one that comes second pays nothing.
UNSENT_S_MAX = 600
_NAME = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True, slots=True)
class Settling:
    """What the server sends to the chain of its own accord. It holds no key of any party."""

    market: Market
    clock: Clock
    database: Database
    calls: EscrowCalls
    lives: Lives

    def settle(self) -> int:
        """Put unpaid vouchers into settlement intents; returns how many vouchers."""
        with self.database.write() as store:
            if not store.lead("settling"):
                return 0
            head = store.chain_cursor()
            unpaid = store.vouchers.unpaid()
            intents = store.intents(
                key for row, lease in unpaid for key in (row.intent, _close_key(lease)) if key
            )
            ready = [
                (row, lease) for row, lease in unpaid if self._settles(row, lease, intents, head)
            ]
            for metered in (False, True):
                batch = [pair for pair in ready if pair[1].metered is metered]
                for start in range(0, len(batch), BATCH_MAX):
                    self._enqueue(store, batch[start : start + BATCH_MAX], metered)
        return len(ready)

    def _settles(
        self, row: VoucherRow, lease: LeaseRow, intents: dict[str, Intent], head: BlockRef | None
    ) -> bool:
        if lease.state not in LEASE_OPEN or lease.end_s is None or head is None:
            return False
        if head.timestamp > lease.end_s + self.market.settle_window_s:
            return False
        close = intents.get(_close_key(lease) or "")
        if close is not None and close.state is not IntentState.DEAD:
            return False  # the Close pays all of it
        last = intents.get(row.intent or "")
        if last is not None and last.state is IntentState.DEAD:
            retry_s = min(RETRY_S_MAX, max(RETRY_S_MIN, 3 * self.market.settle_every_s))
            return self._older(last, retry_s)
        if last is not None and last.state is IntentState.PENDING and last.attempts:
            return self._older(last, UNSENT_S_MAX)
        return last is None or _indexed(last, head)

    def _older(self, intent: Intent, seconds: int) -> bool:
        return self.clock() - intent.created_at.timestamp() * 1000 > seconds * 1000

    def _enqueue(
        self, store: Store, batch: list[tuple[VoucherRow, LeaseRow]], metered: bool
    ) -> None:
        vouchers = [signed_voucher(row, lease) for row, lease in batch]
        kind = IntentKind.SETTLE_METERED if metered else IntentKind.SETTLE
        key = new_id("settle")
        data = self.calls.settle(vouchers, metered)
        store.enqueue(kind, key, self.calls.payload(data))
        for row, _ in batch:
            row.intent = key

    def refund(self) -> int:
        """Ask for the refund of leases whose settle window is over; returns how many."""
        with self.database.write() as store:
            head = store.chain_cursor()
            if head is None or not store.lead("settling"):
                return 0
            return sum(
                self._ask(
                    store, IntentKind.REFUND, f"refund:{lease.id}", self.calls.refund(ref_of(lease))
                )
                for lease in store.leases.open_that_ended_before(
                    head.timestamp - self.market.settle_window_s
                )
            )

    def _ask(self, store: Store, kind: IntentKind, key: str, data: bytes) -> bool:
        """Enqueue what is neither there nor on its way; after each death the pause doubles."""
        tries = store.tries(key)
        if not tries.is_free:
            return False
        if tries.last and not self._older(tries.last, RETRY_S_MAX * 2 ** (tries.dead - 1)):
            return False
        store.enqueue(kind, tries.key, self.calls.payload(data))
        return True

    def failed_opens(self) -> int:
        """Follow up openings that the chain refused; returns how many.

        A lease that is open already stays `opening` until its events come: its job must not run
        twice, and the lease bills.
        """
        with self.database.read() as store:
            refused = [(key, error or "unknown") for key, error in store.leases.refused_openings()]
        dead = [(lease_id, error) for lease_id, error in refused if _name(error) != OPEN_ALREADY]
        for lease_id, error in dead:
            with self.database.write() as store:
                self._failed(store, store.leases.need(lease_id, lock=True), error)
        return len(dead)

    def _failed(self, store: Store, lease: LeaseRow, error: str) -> None:
        job = store.jobs.need(lease.job_id, lock=True)
        previous = store.leases.last_opened(job.bid_id)
        fault = self._fault(error, store.bids.need(lease.bid_id))
        fact = OpeningFailed(error[:500], fault, previous.id if previous else None)
        self.lives.take(store, job, lease, fact)

    def _fault(self, error: str, bid: BidRow) -> Fault:
        if self._is_buyers_fault(error, bid):
            return Fault.BUYER
        return Fault.ASK if _name(error) in ASKS_FAULTS else Fault.PAIR

    def _is_buyers_fault(self, error: str, bid: BidRow) -> bool:
        """Whether another ask would fail, too: the balance, the budget, the bid's own signature."""
        if _name(error) == "OrderExpired":
            return bid.expiry_s <= self.clock() // 1000
        return _name(error) in BUYERS_FAULTS or bid.account.lower() in error.lower()


def _name(error: str) -> str:
    found = _NAME.search(error)
    return found.group() if found else "unknown"


def _close_key(lease: LeaseRow) -> str | None:
    """The key of the Close that the witness signed, if any."""
    return f"close:{lease.id}" if lease.witness_signature is not None else None


def _indexed(intent: Intent, head: BlockRef) -> bool:
    """Whether an intent is over and the indexer has seen what it did."""
    mined = intent.state in (IntentState.CONFIRMED, IntentState.FINAL)
    return mined and intent.block_number is not None and intent.block_number <= head.number


def signed_voucher(row: VoucherRow, lease: LeaseRow) -> SettlementEntry:
    """A stored voucher as the escrow takes it."""
    parties = (lease.buyer, lease.provider, lease.lease_bytes)
    signature = bytes.fromhex(row.signature[2:])
    if lease.metered:
        return SettlementEntry(MeteredUsage(*parties, row.ms, row.egress_mib, row.units), signature)
    return SettlementEntry(Usage(*parties, row.ms), signature)
