"""Leases as their parties see them: who may see them, what awaits a witness, a job's output."""

from dataclasses import dataclass

from marketplace.db.store import Store
from marketplace.db.tables import AttestationRow, BidRow, LeaseRow, Part
from marketplace.domain.life import LEASE_OPEN, LeaseState
from marketplace.errors import InvalidInput, NotFound, Problem
from marketplace.limits import LOG_BYTES_MAX, PENDING_LEASES_MAX
from marketplace.services.common import Principal, emit, unhex
from marketplace.services.ports import Clock, Market
from marketplace.services.views import (
    attestation_view,
    final_view,
    heartbeat_view,
    lease_view,
    outcome_view,
)
from marketplace.wire.jobs import LogPiece
from marketplace.wire.leases import CloseRequest, LogChunk, LogPosition, Pending, PendingList
from settlement.chain.calls import LeaseRef
from settlement.orders import Ask, Bid, OpenedFrom, Prices, terms_hash


def party(store: Store, caller: Principal, lease_id: str, *, lock: bool = False) -> LeaseRow:
    """A lease the caller is a party of (any, for an operator). Raises NotFound."""
    lease = store.leases.get(lease_id, lock=lock)
    if lease is not None and (
        caller.is_operator or caller.account in (lease.buyer, lease.provider, lease.witness)
    ):
        return lease
    raise NotFound("no such lease")


def provider_of(store: Store, caller: Principal, lease_id: str) -> LeaseRow:
    """A lease the caller provides, locked for change. Raises NotFound."""
    lease = store.leases.get(lease_id, lock=True)
    if lease is None or lease.provider != caller.account or "provider" not in caller.scopes:
        raise NotFound("no such lease")
    return lease


def buying_side(store: Store, caller: Principal, lease_id: str) -> LeaseRow:
    """A lease the caller buys or witnesses, locked for change. Raises NotFound."""
    lease = store.leases.get(lease_id, lock=True)
    if lease is None or caller.account not in (lease.buyer, lease.witness):
        raise NotFound("no such lease")
    return lease


def ref_of(lease: LeaseRow) -> LeaseRef:
    """What names the lease on chain."""
    return LeaseRef(lease.buyer, lease.provider, lease.witness, lease.lease_bytes)


def terms_hash_of(store: Store, lease: LeaseRow) -> bytes:
    """What a lease was opened from, in one word, which proves its meter."""
    bid, ask = store.bids.need(lease.bid_id), store.asks.need(lease.ask_id)
    prices = Prices.from_message(lease.prices).struct_hash()
    return terms_hash(unhex(bid.hash), unhex(ask.hash), prices, seat=0)


def opened_from(store: Store, lease: LeaseRow) -> OpenedFrom:
    """What a lease was opened from: a top-up sends it again."""
    ask = Ask.from_message(store.asks.need(lease.ask_id).message)
    bid = Bid.from_message(store.bids.need(lease.bid_id).message)
    return OpenedFrom(ask, bid, Prices.from_message(lease.prices))


def usage_json(ms: int = 0, egress_mib: int = 0, units: int = 0) -> dict[str, int]:
    """Cumulative usage as rows keep it."""
    return {"ms": ms, "egress_mib": egress_mib, "units": units}


@dataclass(frozen=True, slots=True)
class Leases:
    market: Market
    clock: Clock

    def find(
        self,
        store: Store,
        caller: Principal,
        role: str | None,
        states: tuple[str, ...],
        node_id: str | None,
        part: Part,
    ) -> list[LeaseRow]:
        """The caller's leases in a role (both, if none is given), newest first."""
        if not set(states) <= set(LeaseState):
            raise InvalidInput([Problem("/state", f"must be one of {', '.join(LeaseState)}")])
        roles = (role,) if role else ("provider", "buyer")
        rows = store.leases.page(caller.account, roles, states, node_id, part)
        store.jobs.hold(row.job_id for row in rows)
        return rows

    def bid(self, store: Store, caller: Principal, bid_id: str) -> BidRow:
        """A bid, for its buyer, its witness, the providers it was matched with, and operators.
        Raises NotFound."""
        row = store.bids.get(bid_id)
        if row is not None and (
            caller.is_operator
            or caller.account == row.account
            or caller.account.lower() == str(row.message["witness"]).lower()
            or store.leases.is_provider_of_bid(caller.account, bid_id)
        ):
            return row
        raise NotFound("no such bid")

    def pending(self, store: Store, caller: Principal) -> PendingList:
        """Every open lease that the caller buys or witnesses, with what awaits a signature."""
        rows = store.leases.open_for_witness(caller.account, PENDING_LEASES_MAX)
        store.jobs.hold(row.job_id for row in rows)
        newest = store.attestations.newest_accepted([row.id for row in rows])
        return PendingList(data=tuple(self._entry(store, row, newest.get(row.id)) for row in rows))

    def _entry(self, store: Store, lease: LeaseRow, newest: AttestationRow | None) -> Pending:
        unanswered = newest is not None and newest.voucher_signature is None
        closes = lease.state in LEASE_OPEN and lease.witness_signature is None
        final = final_view(lease) if closes else None
        close = CloseRequest(**dict(final), outcome=outcome_view(lease)) if final else None
        return Pending(
            lease=lease_view(store, self.market, lease),
            attestation=attestation_view(newest) if newest and unanswered else None,
            close=close,
            heartbeat=None if lease.heartbeat_ms is None else heartbeat_view(lease),
        )

    def append_log(
        self, store: Store, caller: Principal, lease_id: str, chunk: LogChunk
    ) -> LogPosition:
        """Add output of a job. `offset`: UTF-8 bytes sent before; what is known is skipped. Returns
        the offset that comes next. Raises NotFound."""
        lease = provider_of(store, caller, lease_id)
        known = int(lease.log_next.get(chunk.stream, 0))
        data = chunk.text.encode()
        end = chunk.offset + len(data)
        if end > known:
            offset = max(chunk.offset, known)
            if offset < LOG_BYTES_MAX:
                kept = data[offset - chunk.offset :][: LOG_BYTES_MAX - offset]
                text = kept.decode(errors="replace")
                full = end >= LOG_BYTES_MAX
                piece = LogPiece(stream=chunk.stream, offset=offset, text=text, truncated=full)
                emit(store, lease.job_id, "log", piece, self.clock())
            lease.log_next = {**lease.log_next, chunk.stream: end}
        return LogPosition(stream=chunk.stream, next_offset=max(end, known))
