"""Leases as their parties see them, and who may see them."""

from dataclasses import dataclass
from typing import Any

from marketplace.db.store import Store
from marketplace.db.tables import BidRow, LeaseRow
from marketplace.domain.life import LeaseState
from marketplace.errors import InvalidInput, NotFound, Problem
from marketplace.services.common import Principal
from marketplace.services.ports import Market
from settlement.attestation import Close
from settlement.chain.calls import LeaseRef
from settlement.orders import Prices, orders_hash
from settlement.units import cost, counted_cost


def party(store: Store, caller: Principal, lease_id: str, *, lock: bool = False) -> LeaseRow:
    """A lease the caller is buyer, provider or witness of. Raises NotFound."""
    lease = store.leases.get(lease_id, lock=lock)
    if lease is None or not (
        caller.is_operator or caller.account in (lease.buyer, lease.provider, lease.witness)
    ):
        raise NotFound("no such lease")
    return lease


def provider_of(store: Store, caller: Principal, lease_id: str) -> LeaseRow:
    """A lease the caller provides, locked for change. Raises NotFound."""
    lease = store.leases.get(lease_id, lock=True)
    if lease is None or lease.provider != caller.account or "provider" not in caller.scopes:
        raise NotFound("no such lease")
    return lease


def buyer_of(store: Store, caller: Principal, lease_id: str) -> LeaseRow:
    """A lease the caller buys or witnesses, locked for change. Raises NotFound."""
    lease = store.leases.get(lease_id, lock=True)
    if lease is None or caller.account not in (lease.buyer, lease.witness):
        raise NotFound("no such lease")
    return lease


def ref_of(lease: LeaseRow) -> LeaseRef:
    """What names the lease on chain."""
    return LeaseRef(lease.buyer, lease.provider, lease.witness, lease.lease_bytes)


def usage_json(ms: int = 0, egress_mib: int = 0, units: int = 0) -> dict[str, int]:
    """Cumulative usage as the API writes it."""
    return {"ms": ms, "egress_mib": egress_mib, "units": units}


def billed(lease: LeaseRow) -> dict[str, Any]:
    """The usage that counts: what is attested while the lease runs, once it has ended what was
    countersigned, and in the end what the chain settled."""
    if lease.state in (LeaseState.OPENING, LeaseState.ACTIVE):
        return lease.attested
    return lease.settled if lease.state is LeaseState.CLOSED else lease.countersigned


def cost_now(market: Market, lease: LeaseRow) -> int:
    """Atoms that the lease costs as far as is known: when it is closed, what was released."""
    return (
        lease.released
        if lease.state is LeaseState.CLOSED
        else accrued(market, lease, billed(lease))
    )


def accrued(market: Market, lease: LeaseRow, usage: dict[str, Any]) -> int:
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


def close_message(lease: LeaseRow) -> Close:
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
    ) -> list[LeaseRow]:
        """The caller's leases in a role (both, if none is given), newest first."""
        if not set(states) <= set(LeaseState):
            raise InvalidInput([Problem("/state", f"must be one of {', '.join(LeaseState)}")])
        roles = (role,) if role else ("provider", "buyer")
        rows = store.leases.page(caller.account, roles, states, node_id, limit, before)
        store.jobs.hold(row.job_id for row in rows)
        return rows

    def bid(self, store: Store, caller: Principal, bid_id: str) -> BidRow:
        """A bid, for its buyer, its witness, and providers and operators it concerns."""
        row = store.bids.get(bid_id)
        if row is None:
            raise NotFound("no such bid")
        if caller.account == row.account or caller.is_operator:
            return row
        if caller.account.lower() == str(row.message["witness"]).lower():
            return row
        if not store.leases.is_provider_of_bid(caller.account, bid_id):
            raise NotFound("no such bid")
        return row


def orders_hash_of(store: Store, lease: LeaseRow) -> bytes:
    """Both orders of a lease in one word, which proves its meter."""
    bid, ask = store.bids.need(lease.bid_id), store.asks.need(lease.ask_id)
    return orders_hash(bytes.fromhex(bid.hash[2:]), bytes.fromhex(ask.hash[2:]))
