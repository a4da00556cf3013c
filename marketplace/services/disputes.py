"""Claims, contests, rulings and top-ups: looked at, and written out for whoever may send them.

A claim, a contest and a top-up move money of the account that sends them, so the account itself
sends the transaction; the server writes it out. A ruling is signed, and the relayer sends it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marketplace.errors import Conflict, InvalidInput, InvalidSignature, NotFound, Problem
from marketplace.services.claims import claim_json
from marketplace.services.common import Principal, account_refusal, money, money_text, parse_struct
from marketplace.services.leases import lease_bytes, party, ref_of
from marketplace.services.ports import EscrowReads, Market, Store
from marketplace.services.records import LeaseRecord
from marketplace.services.settling import signed_voucher
from settlement.attestation import Ruling
from settlement.chain.calls import EscrowCalls, LeaseOrders
from settlement.eip712 import ZERO_ADDRESS
from settlement.orders import Ask, Bid
from settlement.ports import IntentKind
from settlement.units import time_lock

ROLES = ("provider", "buyer", "arbiter")
CLAIM_MS_MAX = 120_000
"""Most time claimed on top of what was settled. Source: `Claiming` in contracts."""
CALL_GAS = 300_000  # more than any of these calls takes
VOUCHER_GAS = 150_000


@dataclass(frozen=True, slots=True)
class SignedRuling:
    """A ruling, its signature, and why that is not the caller's, as far as no store is needed."""

    ruling: Ruling
    signature: bytes
    refusal: InvalidSignature | None


@dataclass(frozen=True, slots=True)
class Disputes:
    """What follows where meter and witness do not agree."""

    market: Market
    reads: EscrowReads
    calls: EscrowCalls

    def find(
        self,
        store: Store,
        caller: Principal,
        role: str | None,
        states: tuple[str, ...],
        limit: int,
        before: str | None,
    ) -> list[LeaseRecord]:
        """Leases with a claim that the caller has a part in, newest first."""
        allowed = ("claimed", "contested", "closed")
        if any(state not in allowed for state in states):
            raise InvalidInput([Problem("/state", f"must be one of {', '.join(allowed)}")])
        equal: dict[str, Any] = {"state": states} if states else {}
        found: dict[str, LeaseRecord] = {}
        for member in (role,) if role else ROLES:
            rows = store.leases.find(
                newest=True,
                before=before,
                limit=limit,
                least={"claimed_ms": 1},
                **{**equal, member: caller.account},
            )
            found.update((row.id, row) for row in rows)
        return [found[key] for key in sorted(found, reverse=True)][:limit]

    def get(self, store: Store, caller: Principal, lease_id: str) -> LeaseRecord:
        """A lease with a claim, for its parties and its arbiter. Raises NotFound."""
        lease = store.leases.get(lease_id)
        if lease is None or lease.arbiter == ZERO_ADDRESS or caller.account != lease.arbiter:
            lease = party(store, caller, lease_id)
        if lease.claim is None:
            raise NotFound("nothing was claimed on this lease")
        return lease

    def to_json(self, lease: LeaseRecord) -> dict[str, Any]:
        """A lease's claim."""
        shown = claim_json(self.market, lease)
        if shown is None:
            raise KeyError(lease.id)
        return shown

    def claim(
        self, store: Store, caller: Principal, lease_id: str, ms: int | None
    ) -> list[dict[str, Any]]:
        """What the provider sends to claim time up to `ms`: first the best voucher, if it is not
        settled, then the claim. Without `ms`, all that was attested and may be claimed.

        Raises NotFound, Conflict, InvalidInput.
        """
        lease = store.leases.get(lease_id)
        if lease is None or lease.provider != caller.account:
            raise NotFound("no such lease")
        if lease.state not in ("active", "stopped"):
            raise Conflict(f"the lease is {lease.state}; only an open one can be claimed")
        if lease.arbiter == ZERO_ADDRESS:
            raise Conflict("the lease's orders name no arbiter, so nothing can be claimed")
        best = store.vouchers.get(lease.id)
        settled = int(lease.settled.get("ms", 0))
        steps = []
        if best is not None and not best.paid:
            settled = max(settled, best.ms)
            data = self.calls.settle_all([signed_voucher(best, lease)], lease.metered)
            steps.append(self._step("settle", data, VOUCHER_GAS))
        most = min(settled + CLAIM_MS_MAX, lease.funded_seconds * 1000)
        wanted = min(int(lease.attested.get("ms", 0)), most) if ms is None else ms
        if not settled < wanted <= most:
            detail = f"must be above {settled}, what was countersigned, and at most {most}"
            raise InvalidInput([Problem("/ms", detail)])
        data = self.calls.claim(orders_of(store, lease), wanted)
        return [*steps, self._step("claim", data)]

    def contest(self, store: Store, caller: Principal, lease_id: str) -> list[dict[str, Any]]:
        """What the buyer sends to contest a claim. Raises NotFound, Conflict."""
        lease = store.leases.get(lease_id)
        if lease is None or lease.buyer != caller.account:
            raise NotFound("no such lease")
        if lease.state != "claimed":
            raise Conflict(f"the lease is {lease.state}; only a claimed one can be contested")
        return [self._step("contest", self.calls.contest(ref_of(lease)))]

    def close(self, store: Store, caller: Principal, lease_id: str) -> list[dict[str, Any]]:
        """What anyone sends to close a claim whose window is over. Raises NotFound, Conflict."""
        lease = self.get(store, caller, lease_id)
        head = store.chain_cursor()
        if lease.claim is None or lease.state not in ("claimed", "contested"):
            raise Conflict(f"the lease is {lease.state}")
        if head is None or head.timestamp <= lease.claim["until"]:
            raise Conflict("the claim's window is not over")
        return [self._step("close_claim", self.calls.close_claim(ref_of(lease)))]

    def top_up(
        self, store: Store, caller: Principal, job_id: str, seconds: int
    ) -> tuple[LeaseRecord, list[dict[str, Any]], dict[str, str]]:
        """What the buyer sends to run a job longer: its lease, the transaction, and the lock.

        Raises NotFound, Conflict, InvalidInput.
        """
        job = store.jobs.get(job_id)
        lease = store.leases.get(job.lease_id) if job and job.lease_id else None
        if job is None or job.account != caller.account:
            raise NotFound("no such job")
        if lease is None or lease.state != "active":
            raise Conflict("the job has no active lease to top up")
        orders, bid = orders_of(store, lease), bid_of(store, lease)
        longest = orders.ask.max_seconds + orders.ask.start_limit_seconds - lease.funded_seconds
        if not 0 < seconds <= longest:
            detail = f"must be between 1 and {max(0, longest)} seconds, the ask's longest time"
            raise InvalidInput([Problem("/duration", detail)])
        spent = (lease.rate, lease.min_charge_seconds, self.market.decimals)
        more = time_lock(spent[0], lease.funded_seconds + seconds, *spent[1:])
        more -= time_lock(spent[0], lease.funded_seconds, *spent[1:])
        if job.spent + lease.lock + more > bid.budget:
            left = max(0, bid.budget - job.spent - lease.lock)
            costs, left_over = money_text(self.market, more), money_text(self.market, left)
            detail = f"costs up to {costs}; the bid's budget has {left_over} left"
            raise InvalidInput([Problem("/duration", detail)])
        step = self._step("top_up", self.calls.top_up(orders, bid, seconds))
        return lease, [step], money(self.market, more)

    def prepare_ruling(self, store: Store, caller: Principal, lease_id: str, award: int) -> Ruling:
        """The ruling that the arbiter would sign. Raises NotFound, Conflict, InvalidInput."""
        lease = self._arbitrated(store, caller, lease_id)
        most = int((lease.claim or {}).get("amount", 0))
        if not 0 <= award <= most:
            detail = f"must be between 0 and {money_text(self.market, most)}"
            raise InvalidInput([Problem("/award", detail)])
        return Ruling(lease.buyer, lease.provider, lease_bytes(lease), award)

    def read(self, caller: Principal, message: Any, signature: bytes) -> SignedRuling:
        """Read a ruling and its signature, if need be by the chain, before any transaction is
        begun. Raises InvalidInput, ChainError.
        """
        ruling = parse_struct(Ruling, message, "/ruling")
        refusal = account_refusal(ruling, signature, caller.account, self.market, self.reads)
        return SignedRuling(ruling, signature, refusal)

    def rule(
        self, store: Store, caller: Principal, lease_id: str, signed: SignedRuling
    ) -> LeaseRecord:
        """Send the ruling that the caller signed as the lease's arbiter to the chain.

        Raises NotFound, Conflict, InvalidInput, InvalidSignature.
        """
        lease = self._arbitrated(store, caller, lease_id)
        ruling = signed.ruling
        if ruling != self.prepare_ruling(store, caller, lease_id, ruling.award):
            raise InvalidInput([Problem("/ruling", "names another lease")])
        if signed.refusal is not None:
            raise signed.refusal
        data = self.calls.rule(orders_of(store, lease), ruling.award, signed.signature)
        key = f"rule:{lease.id}:{ruling.award}"
        store.enqueue(IntentKind.RULE, key, self.calls.payload(data))
        return lease

    def _arbitrated(self, store: Store, caller: Principal, lease_id: str) -> LeaseRecord:
        lease = store.leases.get(lease_id)
        if lease is None or lease.claim is None or lease.arbiter != caller.account:
            raise NotFound("no such claim")
        if lease.state != "contested":
            raise Conflict(f"the lease is {lease.state}; only a contested claim is ruled on")
        return lease

    def _step(self, name: str, data: bytes, gas: int = CALL_GAS) -> dict[str, Any]:
        return {"call": name, **self.calls.payload(data, gas)}


def bid_of(store: Store, lease: LeaseRecord) -> Bid:
    """The bid that a lease was opened from."""
    row = store.bids.get(lease.bid_id)
    if row is None:
        raise KeyError(lease.id)
    return Bid.from_message(row.message)


def orders_of(store: Store, lease: LeaseRecord) -> LeaseOrders:
    """The orders that a lease was opened from, as the escrow wants them again."""
    ask = store.asks.get(lease.ask_id)
    if ask is None:
        raise KeyError(lease.id)
    bid = bid_of(store, lease)
    return LeaseOrders(Ask.from_message(ask.message), bid.struct_hash(), bid.buyer, bid.witness)
