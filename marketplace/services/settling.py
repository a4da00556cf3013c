"""What the server sends to the chain of its own accord, and what the chain's events mean."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from marketplace.db.store import Database, Store
from marketplace.db.tables import BidRow, LeaseRow, VoucherRow
from marketplace.domain.advance import Fault, OpeningFailed
from marketplace.domain.life import LEASE_OPEN, LeaseState
from marketplace.services.common import new_id, unhex
from marketplace.services.leases import ref_of, usage_json
from marketplace.services.lives import Lives, chain_facts, cost_event
from marketplace.services.ports import Clock, Market
from marketplace.services.stops import note_failure, note_stop
from settlement.attestation import MeteredUsage, Usage
from settlement.chain.calls import EscrowCalls, SettlementEntry
from settlement.errors import SignatureError
from settlement.events import Opened, Stopped
from settlement.leases import ChainLease, LeaseStatus, Params, fold
from settlement.orders import Ask, Bid
from settlement.ports import BlockRef, Intent, IntentKind, IntentState, LoggedEvent
from settlement.signing import recover

# Only the buyer's side is to blame for these: another ask would fail, too.
BUYERS_FAULTS = (
    "InsufficientBalance",
    "BudgetTooSmall",
    "NonceUsed",
    "NotLatestLease",
    "NotMarkedAgain",
    "PurseExpired",
)
# These make an ask useless for every bid, not only for this one.
ASKS_FAULTS = ("InvalidSignature", "OrderExpired", "CancelledOrder")
FREE_AFTER_S = 60  # past a lease's end, in which its parties may still close it
OPEN_ALREADY = "LeaseExists"  # not a failure: another transaction opened this very lease
UNKNOWN = "unknown"  # the chain names no error
RETRY_S_MIN, RETRY_S_MAX = 5, 60
# A batch's gas must fit one transaction (2**24, EIP-7825) and geth's cap of 1 ether up to 90 gwei.
# The dearest entry, a new provider's first with counts, takes 44,000; the relayer adds a quarter.
BATCH_MAX = 200
# If an intent could not be sent for so long, its vouchers go into another one. Vouchers are
# cumulative: if both intents go out after all, the second one pays nothing.
UNSENT_S_MAX = 600
_NAME = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True, slots=True)
class Settling:
    """Sends what the server itself decides to send to the chain. It holds no key of any party."""

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
            keys = (key for row, lease in unpaid for key in (row.intent, _close_key(lease)) if key)
            intents = store.intents(keys)
            ready = [pair for pair in unpaid if self._settles(*pair, intents, head)]
            for metered in (False, True):
                same = [pair for pair in ready if pair[1].metered is metered]
                for start in range(0, len(same), BATCH_MAX):
                    self._enqueue(store, same[start : start + BATCH_MAX], metered)
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
        kind = IntentKind.SETTLE_METERED if metered else IntentKind.SETTLE
        key = new_id("settle")
        vouchers = [signed_voucher(*pair) for pair in batch]
        store.enqueue(kind, key, self.calls.payload(self.calls.settle(vouchers, metered)))
        for row, _ in batch:
            row.intent = key

    def refund(self) -> int:
        """Ask for the refund of leases whose settle window is over; returns how many."""
        with self.database.write() as store:
            head = store.chain_cursor()
            if head is None or not store.lead("settling"):
                return 0
            over = head.timestamp - self.market.settle_window_s
            return sum(
                self._request_refund(store, lease)
                for lease in store.leases.open_that_ended_before(over)
            )

    def free_ended(self) -> int:
        """Stop leases that ran out a while ago and whose parties stopped nothing, so that the chain
        frees their nodes; returns how many."""
        with self.database.write() as store:
            head = store.chain_cursor()
            if head is None or not store.lead("settling"):
                return 0
            asked = 0
            for lease in store.leases.open_that_ended_before(head.timestamp - FREE_AFTER_S):
                tries = store.tries(f"free:{lease.id}")
                if lease.state is LeaseState.ACTIVE and tries.last is None:
                    payload = self.calls.payload(self.calls.free([ref_of(lease)]))
                    store.enqueue(IntentKind.FREE, tries.key, payload)
                    asked += 1
            return asked

    def _request_refund(self, store: Store, lease: LeaseRow) -> bool:
        """Ask for a refund unless it is done or on its way; the pause doubles after each death."""
        tries = store.tries(f"refund:{lease.id}")
        if not tries.is_free:
            return False
        if tries.last and not self._older(tries.last, RETRY_S_MAX * 2 ** (tries.dead - 1)):
            return False
        payload = self.calls.payload(self.calls.refund(ref_of(lease)))
        store.enqueue(IntentKind.REFUND, tries.key, payload)
        return True

    def failed_opens(self) -> int:
        """Follow up openings that the chain refused; returns how many. A lease that is open already
        stays `opening` until its events come: its job must not run twice, and the lease bills."""
        with self.database.read() as store:
            refused = [
                (key, error or UNKNOWN, m) for key, error, m in store.leases.refused_openings()
            ]
        dead = [one for one in refused if _name(one[1]) != OPEN_ALREADY]
        for lease_id, error, mined in dead:
            with self.database.write() as store:
                lease = store.leases.need(lease_id, lock=True)
                job = store.jobs.need(lease.job_id, lock=True)
                previous = store.leases.last_opened(job.bid_id)
                fault = self._fault(error, store.bids.need(lease.bid_id))
                if mined and _name(error) == UNKNOWN:
                    fault = self._signers_fault(store, lease)
                fact = OpeningFailed(error[:500], fault, previous.id if previous else None)
                self.lives.take(store, job, lease, fact)
                if mined and fault is Fault.BUYER:
                    note_failure(store, self.market, lease, self.clock())
        return len(dead)

    def _signers_fault(self, store: Store, lease: LeaseRow) -> Fault:
        """Whose contract (ERC-1271) is to blame for an opening that no look at the chain foretold:
        it may say yes when it is asked, and burn the gas in the block. Keys cannot do that."""
        bid_row, ask_row = store.bids.need(lease.bid_id), store.asks.need(lease.ask_id)
        bid, ask = Bid.from_message(bid_row.message), Ask.from_message(ask_row.message)
        if not self._signed_by_key(bid, bid_row.signature, bid.buyer):
            return Fault.BUYER
        keys = self._signed_by_key(ask, ask_row.signature, ask.provider)
        return Fault.PAIR if keys else Fault.ASK

    def _signed_by_key(self, order: Bid | Ask, signature: str, account: str) -> bool:
        try:
            return recover(order, self.market.domain, unhex(signature)) == account
        except SignatureError:
            return False

    def _fault(self, error: str, bid: BidRow) -> Fault:
        """The buyer is to blame if another ask would fail, too."""
        name = _name(error)
        if name == "OrderExpired":
            is_buyers = bid.expiry_s <= self.clock() // 1000
        else:
            is_buyers = name in BUYERS_FAULTS or bid.account.lower() in error.lower()
        if is_buyers:
            return Fault.BUYER
        return Fault.ASK if name in ASKS_FAULTS else Fault.PAIR


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
    signature = unhex(row.signature)
    if lease.metered:
        return SettlementEntry(MeteredUsage(*parties, row.ms, row.egress_mib, row.units), signature)
    return SettlementEntry(Usage(*parties, row.ms), signature)


@dataclass(frozen=True, slots=True)
class Projection:
    """Called by the event store inside the transaction that changed the events."""

    market: Market
    clock: Clock
    lives: Lives

    def __call__(self, store: Store, lease_numbers: Sequence[str]) -> None:
        """Bring every touched lease of this market, and its job, up to date."""
        for number in lease_numbers:
            lease = store.leases.by_number(number, lock=True)
            if lease is not None:  # None: orders from elsewhere opened it
                self._project(store, lease, store.chain_events(number))

    def _project(self, store: Store, lease: LeaseRow, events: Sequence[LoggedEvent]) -> None:
        chain = fold(logged.event for logged in events)
        job = store.jobs.need(lease.job_id, lock=True)
        settled = lease.settled
        if chain is None:  # a reorg took the opening away; the relayer brings the same bytes back
            lease.start_s = lease.end_s = lease.opened_tx = None
            lease.settled, lease.released, lease.refunded = {}, 0, 0
        else:
            self._update(store, lease, chain, events)
        facts = chain_facts(lease, chain)
        for fact in facts:
            self.lives.take(store, job, lease, fact)
        self._mark_paid(store, lease)
        if chain is not None and not facts and lease.settled != settled:
            cost_event(store, self.market, job, lease, self.clock())

    def _update(
        self, store: Store, lease: LeaseRow, chain: ChainLease, events: Sequence[LoggedEvent]
    ) -> None:
        params = Params(self.market.decimals, self.market.fee_bps)
        first = next(x for x in events if isinstance(x.event, Opened))
        last = events[-1]
        closed = chain.status is LeaseStatus.CLOSED
        unlocked = sum(x.event.unlocked for x in events if isinstance(x.event, Stopped))
        lease.start_s, lease.end_s = chain.start, chain.end
        is_stopped = any(isinstance(x.event, Stopped) for x in events)
        note_stop(store, self.market, lease, is_stopped, self.clock())
        lease.paid_seconds = chain.paid_seconds
        lease.lock = chain.lock(params)
        lease.settled = usage_json(chain.used_ms, chain.egress_mib, chain.units)
        lease.released = chain.released(params)
        lease.refunded = unlocked + chain.refunded
        lease.seen_ms = lease.seen_ms or self.clock()
        lease.opened_tx = first.tx_hash
        lease.closed_tx = last.tx_hash if closed else None
        lease.closed_ms = (lease.closed_ms or self.clock()) if closed else None

    def _mark_paid(self, store: Store, lease: LeaseRow) -> None:
        best = store.vouchers.get(lease.id, lock=True)
        if best is None:
            return
        settled = {**usage_json(), **lease.settled}
        if lease.metered:
            counted = settled["egress_mib"] >= best.egress_mib and settled["units"] >= best.units
            paid = counted and settled["ms"] >= best.ms
        else:  # a voucher above the paid time is paid up to it, and then there is no more to pay
            paid = settled["ms"] >= min(best.ms, lease.paid_seconds * 1000)
        best.paid = paid or lease.state is LeaseState.CLOSED
