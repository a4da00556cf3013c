"""Stand-ins for what the services need from outside: a chain and a clock.

`FakeChain` is relayer, escrow and indexer at once: it takes intents from an outbox and gives events
to an event store, doing the sums that the escrow does.
"""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace

from marketplace.db.store import Database, Store
from marketplace.db.tables import LeaseRow
from settlement.attestation import MeteredUsage
from settlement.chain.abi import abi
from settlement.chain.calls import EscrowCalls, LeaseRef, SettlementEntry
from settlement.consent import Purse
from settlement.eip712 import checksum
from settlement.errors import CallReverted, SignatureError
from settlement.events import (
    Cancelled,
    ChainEvent,
    Closed,
    ClosedCounted,
    MarkedAgain,
    Opened,
    OpenedCounted,
    Relayed,
    Settled,
    SettledEntry,
    SettledMetered,
    Stopped,
    Withdrawn,
)
from settlement.leases import ChainLease, LeaseStatus, Params, SaltState, Side, after, fold
from settlement.orders import Bid, Numbered, Prices
from settlement.ports import BlockRef, EventStore, Intent, IntentKind, LoggedEvent, OutboxStore
from settlement.signing import recover_digest
from settlement.vetting import RELAYED


class ManualClock:
    """Wall time that moves when told to. Milliseconds."""

    def __init__(self, start_ms: int = 1_800_000_000_000) -> None:
        self.ms = start_ms

    def __call__(self) -> int:
        return self.ms

    def advance(self, seconds: float) -> None:
        self.ms += int(seconds * 1000)


@dataclass(slots=True)
class FakeChain:
    """Relayer, escrow and indexer in one: `mine` carries out what the outbox holds.

    Free balances and what became of orders are kept here; `refusals` names intents (by key) that
    revert, and with which error; `direct` is what others did, for the next block. Times are
    chain seconds, equal to the clock's.
    """

    database: Database
    outbox: OutboxStore
    events: EventStore
    clock: ManualClock
    calls: EscrowCalls
    params: Params = field(default_factory=Params)
    balances: Counter[str] = field(default_factory=Counter)
    used: set[tuple[str, int]] = field(default_factory=set)
    cancelled: set[tuple[str, int]] = field(default_factory=set)
    refusals: dict[str, str] = field(default_factory=dict)
    direct: list[ChainEvent] = field(default_factory=list)
    height: int = 0
    sent: int = 0
    down: Exception | None = None
    stoppers: dict[bytes, Side] = field(default_factory=dict)
    asked_who: int = 0
    wallets: dict[str, str] = field(default_factory=dict)  # contract accounts, and their owners
    purses: dict[str, Purse] = field(default_factory=dict)
    sent_calls: set[tuple[str, int]] = field(default_factory=set)
    refused: CallReverted | None = None  # what it says to any call that it is asked about

    # EscrowReads

    def _answer(self) -> None:
        if self.down is not None:
            raise self.down

    def balance_of(self, account: str) -> int:
        self._answer()
        return self.balances[account]

    def salt_state(self, account: str, salt: int, kind: Numbered = Numbered.ORDERS) -> SaltState:
        self._answer()
        if kind is Numbered.CALLS:
            return SaltState((account, salt) in self.sent_calls, False)
        order = (account, salt)
        return SaltState(order in self.used, order in self.cancelled)

    def accepts_signature(self, account: str, digest: bytes, signature: bytes) -> bool:
        self._answer()
        with suppress(SignatureError):
            return self.wallets.get(account) == recover_digest(digest, signature)
        return False

    def purse(self, account: str) -> Purse | None:
        self._answer()
        return self.purses.get(account)

    def refusal(self, data: bytes, sender: str, gas: int) -> CallReverted | None:
        self._answer()
        return self.refused

    def who_stopped(self, tx_hash: str, lease: LeaseRef, meter: str) -> Side:
        self._answer()
        self.asked_who += 1
        return self.stoppers.get(lease.lease_no, Side.NOBODY)

    # Mining

    def mine(self) -> int:
        """Mine one block with every pending intent; returns how many took effect."""
        self.height += 1
        now_s = self.clock() // 1000
        ref = BlockRef(self.height, _hash(self.height), _hash(self.height - 1), now_s)
        logged: list[LoggedEvent] = []
        done: list[Intent] = []
        for event in self.direct:
            tx_hash = _hash(10**7 + self.height)
            logged.append(LoggedEvent(ref.number, ref.hash, tx_hash, len(logged), event))
        self.direct = []
        for intent in list(self.outbox.pending(1_000)):
            refusal = self.refusals.get(intent.key)
            events = [] if refusal else self._run(intent, now_s)
            if refusal or not events:
                self.outbox.mark_dead(intent.id, refusal or "NothingToSettle()")
                continue
            for event in events:
                logged.append(
                    LoggedEvent(ref.number, ref.hash, _hash(10**6 + intent.id), len(logged), event)
                )
            done.append(intent)
        for intent in done:
            self.sent += 1
            tx_hash = _hash(10**6 + intent.id)
            self.outbox.mark_signed(intent.id, "0x" + "0e" * 20, self.sent, b"raw", tx_hash)
            self.outbox.mark_sent(intent.id)
            self.outbox.mark_confirmed(intent.id, tx_hash, ref.number, ref.hash)
            self.outbox.mark_final(intent.id)
        self.events.append(ref, logged)
        return len(done)

    def _run(self, intent: Intent, now_s: int) -> list[ChainEvent]:
        if intent.kind is IntentKind.CANCEL:
            return self._cancel(intent)
        if intent.kind in RELAYED:
            return self._relay(intent)
        name = intent.key.split(":")[1].partition("/")[0] if ":" in intent.key else ""
        with self.database.read() as store:
            lease = store.leases.get(name) if name else None
            if intent.kind is IntentKind.OPEN:
                assert lease is not None
                return self._open(store, lease, now_s)
        if intent.kind in (IntentKind.SETTLE, IntentKind.SETTLE_METERED):
            return self._settle(intent, now_s)
        assert lease is not None
        if intent.kind in (IntentKind.STOP, IntentKind.FREE):
            return self._stop(lease, intent, now_s)
        return self._close(lease, intent.kind is IntentKind.REFUND)

    def _cancel(self, intent: Intent) -> list[ChainEvent]:
        data = bytes.fromhex(intent.payload["data"][2:])
        account, kind, salt, and_older, _ = abi("ComputeEscrow").arguments("cancel", data)
        self.cancelled.add((checksum(account), salt))
        return [Cancelled(checksum(account), kind, salt, and_older)]

    def _relay(self, intent: Intent) -> list[ChainEvent]:
        """The fee moves to the relayer, and what a withdrawal names leaves the escrow."""
        data = bytes.fromhex(intent.payload["data"][2:])
        arguments = abi("ComputeEscrow").arguments(RELAYED[intent.kind], data)
        *names, (salt, _, relayer, fee), _ = arguments
        withdraws = intent.kind is IntentKind.WITHDRAW
        account = checksum(names[0] if withdraws else names[1][0])
        self.sent_calls.add((account, salt))
        self.balances[account] -= fee
        relayed = Relayed(account, checksum(relayer), salt, fee)
        if not withdraws:
            return [relayed]
        left = names[2] - fee
        self.balances[account] -= left
        return [relayed, Withdrawn(account, checksum(names[1]), left)]

    def _open(self, store: Store, lease: LeaseRow, now_s: int) -> list[ChainEvent]:
        bid_row, ask_row = store.bids.need(lease.bid_id), store.asks.need(lease.ask_id)
        node = store.nodes.need(lease.node_id)
        bid, prices = Bid.from_message(bid_row.message), Prices.from_message(lease.prices)
        self.balances[lease.buyer] -= lease.lock
        self.used.add((lease.buyer, bid.salt))
        names = (lease.lease_bytes, lease.buyer, lease.provider, lease.witness, lease.meter)
        hashes = tuple(bytes.fromhex(row.hash[2:]) for row in (bid_row, ask_row))
        hashes = (*hashes, prices.struct_hash())
        size, start = (lease.rate, lease.gpu_milli, node.number), lease.start_limit_seconds
        funded = lease.paid_seconds + start
        terms = (*size, 0, now_s + funded, funded, start, bid.salt, lease.lock)
        events: list[ChainEvent] = [Opened(*names, *hashes, *terms)]
        if lease.metered:
            counted = (prices.egress_gib, prices.unit, bid.egress_mib, bid.units)
            events.append(OpenedCounted(lease.lease_bytes, *counted))
        return events

    def state(self, lease_no: bytes) -> ChainLease:
        """The lease as the chain has it."""
        found = fold(logged.event for logged in self.events.events(lease_no))
        assert found is not None
        return found

    def _settle(self, intent: Intent, now_s: int) -> list[ChainEvent]:
        vouchers = self.calls.vouchers(bytes.fromhex(intent.payload["data"][2:]))
        runs: dict[str, list[SettledEntry]] = {}
        for signed in vouchers:
            entry = self._accept(signed, now_s)
            if entry is not None:
                runs.setdefault(signed.voucher.provider, []).append(entry)
        kind = SettledMetered if intent.kind is IntentKind.SETTLE_METERED else Settled
        return [kind(provider, tuple(entries)) for provider, entries in runs.items()]

    def _accept(self, signed: SettlementEntry, now_s: int) -> SettledEntry | None:
        voucher = signed.voucher
        lease = self.state(voucher.lease_no)
        metered = isinstance(voucher, MeteredUsage)
        counted = (voucher.egress_mib, voucher.units) if metered else (0, 0)
        ms = min(voucher.ms, lease.paid_seconds * 1000)
        stale = ms <= lease.used_ms and counted <= (lease.egress_mib, lease.units)
        if stale or not lease.is_open or voucher.ms > lease.elapsed_ms(now_s):
            return None
        self._pay(lease, ms, *counted)
        return SettledEntry(voucher.lease_no, ms, *counted)

    def _pay(self, lease: ChainLease, ms: int, egress_mib: int, units: int) -> ChainLease:
        """Pay the provider what cumulative usage adds; the lease with that usage."""
        after = replace(lease, used_ms=ms, egress_mib=egress_mib, units=units)
        paid = after.released(self.params) - lease.released(self.params)
        self.balances[lease.provider] += paid
        return after

    def _stop(self, row: LeaseRow, intent: Intent, now_s: int) -> list[ChainEvent]:
        lease = self.state(row.lease_bytes)
        names = (lease.lease_no, lease.buyer, lease.provider)
        again = False
        if intent.kind is IntentKind.STOP:
            data = bytes.fromhex(intent.payload["data"][2:])
            _, again, *_ = abi("ComputeEscrow").arguments("stopBySignature", data)
        marked = [MarkedAgain(*names)] if again and not lease.again else []
        if lease.status is not LeaseStatus.ACTIVE:
            return list(marked)
        end = min(lease.end, now_s)
        stopped = after(lease, Stopped(*names, end, 0))
        unlocked = lease.lock(self.params) - stopped.lock(self.params)
        self.balances[lease.buyer] += unlocked
        return [Stopped(*names, end, unlocked), *marked]

    def _close(self, row: LeaseRow, refund: bool) -> list[ChainEvent]:
        lease = self.state(row.lease_bytes)
        if not lease.is_open:
            return []
        again = False
        if not refund:
            assert row.close is not None
            again = row.close["again"] and not lease.again
            used = (int(row.close[name]) for name in ("ms", "egressMib", "units"))
            lease = self._pay(lease, *used)
        refunded = lease.locked(self.params)
        self.balances[lease.buyer] += refunded
        counted = [ClosedCounted(lease.lease_no, lease.egress_mib, lease.units)]
        parties, released = (lease.buyer, lease.provider), lease.released(self.params)
        closed = Closed(lease.lease_no, *parties, lease.used_ms, released, refunded)
        marked = [MarkedAgain(lease.lease_no, *parties)] if again else []
        return [*(counted if lease.metered else []), closed, *marked]


def _hash(number: int) -> str:
    return f"0x{number:064x}"
