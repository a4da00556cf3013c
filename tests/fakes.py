"""Stand-ins for what the services need from outside: a store, a chain, a clock, a place for bytes.

`MemoryDatabase` keeps the promises of `services.ports`; the SQL adapters run through the same
cases. `FakeChain` is relayer, escrow and indexer at once: it takes intents from an outbox and gives
events to an event store, doing the sums that the escrow does.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from typing import Any, Generic, TypeVar

from marketplace.services import records
from marketplace.services.ports import Database, Duplicate, Store, Tally
from settlement.attestation import MeteredUsage
from settlement.chain.abi import abi
from settlement.chain.calls import EscrowCalls, SignedVoucher
from settlement.eip712 import checksum
from settlement.errors import SignatureError
from settlement.events import (
    ChainEvent,
    Closed,
    ClosedCounted,
    Opened,
    OpenedCounted,
    OrderCancelled,
    Settled,
    SettledEntry,
    SettledMetered,
    Stopped,
    lease_numbers,
)
from settlement.leases import LeaseState, LeaseStatus, OrderState, Params, fold
from settlement.orders import Bid, Prices
from settlement.ports import (
    BlockRef,
    EventStore,
    Intent,
    IntentKind,
    LoggedEvent,
    OutboxStore,
)
from settlement.signing import recover_digest
from settlement.units import cost, counted_cost
from tests import fakes_sums as sums
from tests.fakes_settlement import MemoryEvents, MemoryOutbox

R = TypeVar("R")


class ManualClock:
    """Wall time that moves when told to. Milliseconds."""

    def __init__(self, start_ms: int = 1_800_000_000_000) -> None:
        self.ms = start_ms

    def __call__(self) -> int:
        return self.ms

    def advance(self, seconds: float) -> None:
        self.ms += int(seconds * 1000)


# Unique values beside the key, as the database's constraints say.
UNIQUE: dict[type[Any], tuple[tuple[str, ...], ...]] = {
    records.ApiKey: (("secret_hash",), ("account", "nonce")),
    records.Node: (("provider", "number"),),
    records.AskRecord: (("hash",),),
    records.BidRecord: (("hash",), ("account", "salt")),
    records.FillRecord: (("bid_id", "ask_id"),),
    records.LeaseRecord: (("lease_no",),),
    records.ReceiptRecord: (("lease_id",),),
    records.Blob: (("owner", "sha256"),),
}


class MemoryTable(Generic[R]):
    """A Table in a dict."""

    def __init__(self, kind: type[R], rows: dict[Any, R]) -> None:
        self._kind = kind
        self._rows = rows
        self._key = fields(kind)[0].name  # type: ignore[arg-type]

    def get(self, key: str, *, lock: bool = False) -> R | None:
        return self._rows.get(key)

    def one(self, **equal: Any) -> R | None:
        return next(iter(self.find(limit=1, **equal)), None)

    def find(
        self,
        *,
        limit: int | None = None,
        newest: bool = False,
        before: Any = None,
        after: Any = None,
        least: dict[str, int] | None = None,
        **equal: Any,
    ) -> list[R]:
        found = [
            row
            for key, row in sorted(self._rows.items(), reverse=newest)
            if (before is None or key < before)
            and (after is None or key > after)
            and all(getattr(row, name) >= value for name, value in (least or {}).items())
            and self._matches(row, equal)
        ]
        return found[:limit]

    def append(self, record: R) -> None:
        key = max(self._rows, default=0) + 1
        self._rows[key] = replace(record, seq=key)  # type: ignore[type-var]

    def ensure(self, record: R) -> None:
        with suppress(Duplicate):
            self.add(record)

    def add(self, record: R) -> R:
        key = getattr(record, self._key)
        if key in self._rows:
            raise Duplicate(self._kind.__name__)
        self._check_unique(key, record)
        self._rows[key] = record
        return record

    def put(self, record: R) -> None:
        key = getattr(record, self._key)
        if key not in self._rows:
            raise KeyError(key)
        self._check_unique(key, record)
        self._rows[key] = record

    def remove(self, **equal: Any) -> int:
        gone = [key for key, row in self._rows.items() if self._matches(row, equal)]
        for key in gone:
            del self._rows[key]
        return len(gone)

    def _matches(self, row: R, equal: dict[str, Any]) -> bool:
        return all(
            getattr(row, name) in value if isinstance(value, tuple) else getattr(row, name) == value
            for name, value in equal.items()
        )

    def _check_unique(self, key: Any, record: R) -> None:
        groups = UNIQUE.get(self._kind, ())
        if self._kind is records.AttestationRecord and getattr(record, "state") == "accepted":  # noqa: B009
            groups = (("lease_id", "sequence", "state"),)
        for names in groups:
            mine = [getattr(record, name) for name in names]
            for other, row in self._rows.items():
                if other != key and [getattr(row, name) for name in names] == mine:
                    raise Duplicate(self._kind.__name__)


_NAMES: dict[str, type[Any]] = {
    "accounts": records.Account,
    "keys": records.ApiKey,
    "nodes": records.Node,
    "gpus": records.Gpu,
    "asks": records.AskRecord,
    "bids": records.BidRecord,
    "jobs": records.JobRecord,
    "order_log": records.OrderEntry,
    "fills": records.FillRecord,
    "leases": records.LeaseRecord,
    "attestations": records.AttestationRecord,
    "vouchers": records.VoucherRecord,
    "receipts": records.ReceiptRecord,
    "events": records.JobEvent,
    "blobs": records.Blob,
    "replies": records.IdempotentReply,
    "marks": records.Mark,
}


class MemoryStore:
    """A Store over dicts: one attribute per table."""

    def __init__(
        self, rows: dict[str, dict[Any, Any]], outbox: MemoryOutbox, events: MemoryEvents
    ) -> None:
        self._rows = rows
        self._outbox = outbox
        self._events = events
        for name, kind in _NAMES.items():
            setattr(self, name, MemoryTable(kind, rows[name]))

    def enqueue(self, kind: IntentKind, key: str, payload: dict[str, Any]) -> Intent:
        return self._outbox.enqueue(kind, key, payload)

    def intent(self, key: str) -> Intent | None:
        return next((i for i in self._outbox.intents.values() if i.key == key), None)

    def chain_events(self, lease_no: str) -> Sequence[LoggedEvent]:
        return self._events.events(bytes.fromhex(lease_no[2:]))

    def chain_cursor(self) -> BlockRef | None:
        return self._events.cursor()

    def tally(self, now_s: int) -> Tally:
        intents = self._outbox.intents.values()
        left = [i.created_at for i in intents if i.state.value not in ("final", "dead")]
        asks = self._rows["asks"].values()
        return Tally(
            jobs=Counter(job.state for job in self._rows["jobs"].values()),
            leases=Counter(lease.state for lease in self._rows["leases"].values()),
            intents=Counter(intent.state.value for intent in intents),
            oldest_intent_ms=int(min(left).timestamp() * 1000) if left else None,
            asks_resting=sum(ask.state == "open" and ask.expiry_s > now_s for ask in asks),
        )

    def forget_replies(self, before_ms: int) -> int:
        replies = self._rows["replies"]
        old = [key for key, row in replies.items() if row.created_ms < before_ms]
        return len([replies.pop(key) for key in old])

    def order_salts(self, account: str, lowest: int, highest: int) -> tuple[int, int] | None:
        return sums.order_salts(self._rows, self._outbox, account, range(lowest, highest + 1))

    def blob_bytes(self, owner: str, since_ms: int) -> int:
        return sums.blob_bytes(self._rows, owner, since_ms)

    def lead(self, name: str) -> bool:
        return True


class MemoryDatabase:
    """Transactions on dicts, one at a time; an exception puts everything back."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[Any, Any]] = {name: {} for name in _NAMES}
        self.outbox = MemoryOutbox()
        self.chain = MemoryEvents()
        self._turn = threading.RLock()

    @contextmanager
    def read(self) -> Iterator[Any]:
        with self._turn:
            yield MemoryStore(self.rows, self.outbox, self.chain)

    @contextmanager
    def write(self) -> Iterator[Any]:
        with self._turn:
            rows = {name: dict(table) for name, table in self.rows.items()}
            intents = deepcopy((self.outbox.intents, self.outbox.first_payloads))
            done = False
            try:
                yield MemoryStore(self.rows, self.outbox, self.chain)
                done = True
            finally:
                if not done:
                    for name, table in rows.items():
                        self.rows[name].clear()
                        self.rows[name].update(table)
                    self.outbox.intents, self.outbox.first_payloads = intents


class ProjectedEvents(MemoryEvents):
    """An EventStore in memory that projects like the SQL one, in one breath with the change."""

    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__()
        self.database = database
        self.project: Callable[[Any, Sequence[str]], None] = lambda store, numbers: None
        database.chain = self

    def append(self, block: BlockRef, events: Sequence[LoggedEvent]) -> None:
        with self.database.write() as store:
            super().append(block, events)
            self.project(store, touched(events))

    def rollback(self, block_number: int) -> None:
        with self.database.write() as store:
            gone = [e for e in self.logged if e.block_number > block_number]
            super().rollback(block_number)
            self.project(store, touched(gone))


def touched(events: Sequence[LoggedEvent]) -> list[str]:
    """Numbers of the leases that events are about."""
    found = (number for logged in events for number in lease_numbers(logged.event))
    return list(dict.fromkeys("0x" + number.hex() for number in found))


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
    balances: dict[str, int] = field(default_factory=dict)
    used: set[tuple[str, int]] = field(default_factory=set)
    cancelled: set[tuple[str, int]] = field(default_factory=set)
    refusals: dict[str, str] = field(default_factory=dict)
    direct: list[ChainEvent] = field(default_factory=list)
    height: int = 0
    sent: int = 0
    down: Exception | None = None
    wallets: dict[str, str] = field(default_factory=dict)  # contract accounts, and their owners

    # EscrowReads

    def balance_of(self, account: str) -> int:
        if self.down is not None:
            raise self.down
        return self.balances.get(account, 0)

    def order_state(self, account: str, salt: int) -> OrderState:
        if self.down is not None:
            raise self.down
        order = (account, salt)
        return OrderState(order in self.used, order in self.cancelled)

    def accepts_signature(self, account: str, digest: bytes, signature: bytes) -> bool:
        if self.down is not None:
            raise self.down
        with suppress(SignatureError):
            return self.wallets.get(account) == recover_digest(digest, signature)
        return False

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
        name = intent.key.split(":")[1].partition("/")[0] if ":" in intent.key else ""
        with self.database.read() as store:
            lease = store.leases.get(name) if name else None
            if intent.kind is IntentKind.OPEN:
                assert lease is not None
                return self._open(store, lease, now_s)
        if intent.kind in (IntentKind.SETTLE, IntentKind.SETTLE_METERED):
            return self._settle(intent, now_s)
        assert lease is not None
        if intent.kind is IntentKind.STOP:
            return self._stop(lease, now_s)
        return self._close(lease, intent.kind is IntentKind.REFUND)

    def _cancel(self, intent: Intent) -> list[ChainEvent]:
        data = bytes.fromhex(intent.payload["data"][2:])
        account, salt, and_older, _ = abi("ComputeEscrow").arguments("cancel", data)
        self.cancelled.add((checksum(account), salt))
        return [OrderCancelled(checksum(account), salt, and_older)]

    def _open(self, store: Store, lease: records.LeaseRecord, now_s: int) -> list[ChainEvent]:
        bid_row, ask_row = store.bids.get(lease.bid_id), store.asks.get(lease.ask_id)
        node = store.nodes.get(lease.node_id)
        assert bid_row is not None
        assert ask_row is not None
        assert node is not None
        bid, prices = Bid.from_message(bid_row.message), Prices.from_message(lease.prices)
        self.balances[lease.buyer] -= lease.lock
        self.used.add((lease.buyer, bid.salt))
        events: list[ChainEvent] = [
            Opened(
                lease_no=_number(lease),
                buyer=lease.buyer,
                provider=lease.provider,
                witness=lease.witness,
                meter=lease.meter,
                bid_hash=bytes.fromhex(bid_row.hash[2:]),
                ask_hash=bytes.fromhex(ask_row.hash[2:]),
                rate=lease.rate,
                gpu_milli=lease.gpu_milli,
                node=node.number,
                end=now_s + lease.funded_seconds,
                funded=lease.funded_seconds,
                locked=lease.lock,
                bid_salt=bid.salt,
            )
        ]
        if lease.metered:
            events.append(
                OpenedCounted(
                    _number(lease), prices.egress_gib, prices.unit, bid.egress_mib, bid.units
                )
            )
        return events

    def state(self, lease_no: bytes) -> LeaseState:
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

    def _accept(self, signed: SignedVoucher, now_s: int) -> SettledEntry | None:
        voucher = signed.voucher
        lease = self.state(voucher.lease_no)
        egress, units = (
            (voucher.egress_mib, voucher.units) if isinstance(voucher, MeteredUsage) else (0, 0)
        )
        ms = min(voucher.ms, lease.funded * 1000)
        stale = ms <= lease.used_ms and (egress, units) <= (lease.egress_mib, lease.units)
        open_now = lease.status in (LeaseStatus.ACTIVE, LeaseStatus.STOPPED)
        if stale or not open_now or voucher.ms > lease.elapsed_ms(now_s):
            return None
        self._pay(lease, ms, egress, units)
        return SettledEntry(voucher.lease_no, ms, egress, units)

    def _pay(self, lease: LeaseState, ms: int, egress: int, units: int) -> None:
        after = self.paid(lease, ms, egress, units)
        before = lease.released(self.params)
        self.balances[lease.provider] = self.balances.get(lease.provider, 0) + after - before

    def paid(self, lease: LeaseState, ms: int, egress: int, units: int) -> int:
        """Gross atoms of cumulative usage."""
        time = cost(lease.rate, ms, self.params.decimals)
        return time + counted_cost(
            lease.egress_gib, lease.unit, egress, units, self.params.decimals
        )

    def _stop(self, row: records.LeaseRecord, now_s: int) -> list[ChainEvent]:
        lease = self.state(_number(row))
        if lease.status is not LeaseStatus.ACTIVE:
            return []
        end = min(lease.end, now_s)
        stopped = replace(lease, end=end, funded=end - lease.start)
        unlocked = lease.lock(self.params) - stopped.lock(self.params)
        self.balances[lease.buyer] += unlocked
        return [Stopped(lease.lease_no, lease.buyer, lease.provider, end, unlocked)]

    def _close(self, row: records.LeaseRecord, refund: bool) -> list[ChainEvent]:
        lease = self.state(_number(row))
        if lease.status not in (LeaseStatus.ACTIVE, LeaseStatus.STOPPED):
            return []
        used = (lease.used_ms, lease.egress_mib, lease.units)
        if not refund:
            assert row.close is not None
            used = (int(row.close["ms"]), int(row.close["egressMib"]), int(row.close["units"]))
            self._pay(lease, *used)
        released = self.paid(lease, *used)
        refunded = lease.lock(self.params) - released
        self.balances[lease.buyer] += refunded
        counted = [ClosedCounted(lease.lease_no, *used[1:])] if lease.metered else []
        ms = used[0]
        closed = Closed(lease.lease_no, lease.buyer, lease.provider, ms, released, refunded)
        return [*counted, closed]


def _hash(number: int) -> str:
    return f"0x{number:064x}"


def _number(lease: records.LeaseRecord) -> bytes:
    return bytes.fromhex(lease.lease_no[2:])
