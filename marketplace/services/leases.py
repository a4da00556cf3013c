"""Leases as their parties see them, and who may see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marketplace.errors import InvalidInput, NotFound, Problem
from marketplace.services.common import Principal
from marketplace.services.ports import Market, Store
from marketplace.services.records import BidRecord, LeaseRecord
from settlement.attestation import Close
from settlement.chain.calls import LeaseRef
from settlement.orders import Prices, orders_hash
from settlement.units import cost, counted_cost

STATES = ("opening", "active", "stopped", "closed", "failed_to_open")


def party(store: Store, caller: Principal, lease_id: str, *, lock: bool = False) -> LeaseRecord:
    """A lease the caller is buyer, provider or witness of. Raises NotFound."""
    lease = store.leases.get(lease_id, lock=lock)
    if lease is None or not (
        caller.is_operator or caller.account in (lease.buyer, lease.provider, lease.witness)
    ):
        raise NotFound("no such lease")
    return lease


def provider_of(store: Store, caller: Principal, lease_id: str) -> LeaseRecord:
    """A lease the caller provides, locked for change. Raises NotFound."""
    lease = store.leases.get(lease_id, lock=True)
    if lease is None or lease.provider != caller.account or "provider" not in caller.scopes:
        raise NotFound("no such lease")
    return lease


def buyer_of(store: Store, caller: Principal, lease_id: str) -> LeaseRecord:
    """A lease the caller buys or witnesses, locked for change. Raises NotFound."""
    lease = store.leases.get(lease_id, lock=True)
    if lease is None or caller.account not in (lease.buyer, lease.witness):
        raise NotFound("no such lease")
    return lease


def lease_bytes(lease: LeaseRecord) -> bytes:
    """The 16 bytes that name the lease on chain."""
    return bytes.fromhex(lease.lease_no[2:])


def ref_of(lease: LeaseRecord) -> LeaseRef:
    """What names the lease on chain."""
    return LeaseRef(lease.buyer, lease.provider, lease.witness, lease_bytes(lease))


def usage_json(ms: int = 0, egress_mib: int = 0, units: int = 0) -> dict[str, int]:
    """Cumulative usage as the API writes it."""
    return {"ms": ms, "egress_mib": egress_mib, "units": units}


def billed(lease: LeaseRecord) -> dict[str, Any]:
    """The usage that counts: what is attested while the lease runs, once it has ended what was
    countersigned, and in the end what the chain settled."""
    if lease.state in ("opening", "active"):
        return lease.attested
    return lease.settled if lease.state == "closed" else lease.countersigned


def cost_now(market: Market, lease: LeaseRecord) -> int:
    """Atoms that the lease costs as far as is known: when it is closed, what was released."""
    return lease.released if lease.state == "closed" else accrued(market, lease, billed(lease))


def accrued(market: Market, lease: LeaseRecord, usage: dict[str, Any]) -> int:
    """Atoms that cumulative usage costs under the lease's terms."""
    time = cost(lease.rate, int(usage.get("ms", 0)), market.decimals)
    if not lease.metered:
        return time
    prices = Prices.from_message(lease.prices)
    return time + counted_cost(
        prices.egress_gib,
        prices.unit,
        int(usage.get("egress_mib", 0)),
        int(usage.get("units", 0)),
        market.decimals,
    )


def close_message(lease: LeaseRecord) -> Close:
    """The Close that the meter signed. Raises NotFound before there is one."""
    if lease.close is None:
        raise NotFound("the lease has no final report yet")
    return Close.from_message(lease.close)


@dataclass(frozen=True, slots=True)
class Leases:
    """Looking at leases."""

    market: Market

    def find(
        self,
        store: Store,
        caller: Principal,
        role: str | None,
        states: tuple[str, ...],
        node_id: str | None,
        limit: int,
        before: str | None,
    ) -> list[LeaseRecord]:
        """The caller's leases in a role (both, if none is given), newest first."""
        unknown = [state for state in states if state not in STATES]
        if unknown:
            raise InvalidInput([Problem("/state", f"must be one of {', '.join(STATES)}")])
        equal: dict[str, Any] = {"state": states} if states else {}
        if node_id:
            equal["node_id"] = node_id
        roles = (role,) if role else ("provider", "buyer")
        found: dict[str, LeaseRecord] = {}
        for member in roles:
            mine: dict[str, Any] = {**equal, member: caller.account}
            rows = store.leases.find(newest=True, before=before, limit=limit, **mine)
            found.update((row.id, row) for row in rows)
        return [found[key] for key in sorted(found, reverse=True)][:limit]

    def bid(self, store: Store, caller: Principal, bid_id: str) -> BidRecord:
        """A bid, for its buyer, its witness, and providers and operators it concerns."""
        row = store.bids.get(bid_id)
        if row is None:
            raise NotFound("no such bid")
        if caller.account == row.account or caller.is_operator:
            return row
        if caller.account.lower() == str(row.message["witness"]).lower():
            return row
        if store.leases.one(bid_id=bid_id, provider=caller.account) is None:
            raise NotFound("no such bid")
        return row


def orders_hash_of(store: Store, lease: LeaseRecord) -> bytes:
    """Both orders of a lease in one word, which proves its meter."""
    bid, ask = store.bids.get(lease.bid_id), store.asks.get(lease.ask_id)
    if bid is None or ask is None:
        raise KeyError(lease.id)
    return orders_hash(bytes.fromhex(bid.hash[2:]), bytes.fromhex(ask.hash[2:]))
