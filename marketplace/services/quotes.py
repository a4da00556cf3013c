"""Quotes: what a job would get now, and the plan that its buyer sees before signing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marketplace.domain.bidding import bid_of
from marketplace.domain.book import Book
from marketplace.domain.explain import explain
from marketplace.domain.job import JobSpec
from marketplace.domain.jobfile import parse_job
from marketplace.domain.matching import Fill
from marketplace.domain.order import RestingBid, Wants
from marketplace.domain.pricing import prices_to_json, rate_per_hour
from marketplace.domain.reader import milli_text
from marketplace.domain.tier import TierRegistry
from marketplace.services.accounts import reserved
from marketplace.services.bookkeeper import Bookkeeper
from marketplace.services.common import Principal, iso, money
from marketplace.services.ports import Clock, Market, Store
from settlement.orders import Bid

MATCHES_SHOWN = 20
BOOK_SHOWN = 500
NO_ONE = "0x" + "0" * 39 + "1"


@dataclass(frozen=True, slots=True)
class Quotes:
    """Looking at the book for one job."""

    market: Market
    clock: Clock
    tiers: TierRegistry
    books: Bookkeeper

    def spec(self, job: Any) -> JobSpec:
        """A packed job spec. Raises InvalidJob with every mistake."""
        return parse_job(job, packed=True, tiers=self.tiers)

    def draft(self, spec: JobSpec, buyer: str, witness: str, salt: int) -> Bid:
        """The bid that a buyer would sign for a job. Raises InvalidInput."""
        return bid_of(
            spec,
            self.tiers,
            buyer=buyer,
            witness=witness,
            opener=self.market.opener,
            fee_bps=self.market.fee_bps,
            now=self.clock() // 1000,
            salt=salt,
        )

    def matches(self, store: Store, spec: JobSpec, bid: Bid) -> tuple[list[Fill], dict[str, Any]]:
        """What fits now, best first; and why not, where nothing does."""
        order = RestingBid("quote", "quote", bid, Wants.of(spec), seq=0)
        with self.books.view(store) as book:
            found = book.quote(order)
            return found, {} if found else self.why_not(book, order)

    def why_not(self, book: Book, order: RestingBid) -> dict[str, Any]:
        """Per constraint how many asks it eliminates, and the cheapest relaxation."""
        return explain(book, order).to_json()

    def book(self, store: Store, tier: str | None) -> dict[str, Any]:
        """Asks in the book with what is free of them, best GPU price first, and resting bids."""
        with self.books.view(store) as book:
            views = [a for a in book.asks() if tier is None or a.ask.tier_name == tier]
            views.sort(key=lambda view: (view.gpu_hour, view.seq))
            rows, free = [], dict[tuple[str, int], tuple[str, int]]()
            for view in views[:BOOK_SHOWN]:
                ask = view.ask
                left = max(0, ask.gpu_milli - view.use.gpu_milli)
                free[(ask.provider, ask.node)] = (ask.tier_name, left)
                rows.append(
                    {
                        "ask_id": view.order.id,
                        "provider": ask.provider,
                        "tier": ask.tier_name,
                        "region": view.node.region,
                        "runtime": view.node.runtime,
                        "simulated": view.node.simulated,
                        "verified": view.node.verified,
                        "reliability": milli_text(view.node.reliability_milli),
                        "shared": view.order.shared,
                        "price": prices_to_json(ask.floor),
                        "gpu_milli": ask.gpu_milli,
                        "free_gpu_milli": left,
                        "max_seconds": ask.max_seconds,
                        "expires_at": iso(ask.expiry * 1000),
                    }
                )
            depth: dict[str, int] = {}
            for name, milli in free.values():
                depth[name] = depth.get(name, 0) + milli
            return {"tier": tier, "asks": rows, "bids": len(list(book.bids())), "depth": depth}

    def quote(self, store: Store, job: Any) -> dict[str, Any]:
        """Every match for a job, without an account."""
        spec = self.spec(job)
        found, why = self.matches(store, spec, self.draft(spec, NO_ONE, NO_ONE, 0))
        return {
            "matches": [self.match_json(f, node_facts(store, f)) for f in found[:MATCHES_SHOWN]],
            "no_match": why or None,
        }

    def plan(
        self, store: Store, caller: Principal, spec: JobSpec, bid: Bid, balance: int
    ) -> dict[str, Any]:
        """What submitting would do: best match, maximum cost, and whether the balance covers it."""
        found, why = self.matches(store, spec, bid)
        shown = [self.match_json(f, node_facts(store, f)) for f in found[:MATCHES_SHOWN]]
        free = balance - reserved(store, caller.account)
        lock = found[0].terms.lock if found else 0
        return {
            "matches": shown,
            "no_match": why or None,
            "price": shown[0]["price"] if shown else None,
            "rate_per_hour": shown[0]["rate_per_hour"] if shown else None,
            "max_cost": money(self.market, lock),
            "balance": money(self.market, max(0, free)),
            "shortfall": money(self.market, max(0, lock - free)),
        }

    def match_json(self, fill: Fill, facts: tuple[str, bool]) -> dict[str, Any]:
        """One possible match as the API shows it."""
        region, simulated = facts
        return {
            "ask_id": fill.ask_id,
            "provider": fill.provider,
            "tier": fill.tier,
            "region": region,
            "simulated": simulated,
            "price": prices_to_json(fill.prices),
            "rate": str(fill.rate),
            "rate_per_hour": rate_per_hour(fill.rate),
            "max_cost": money(self.market, fill.terms.lock),
            "funded_seconds": fill.terms.funded_seconds,
            "budget_limited": fill.terms.budget_limited,
        }


def node_facts(store: Store, fill: Fill) -> tuple[str, bool]:
    """Region of a fill's node, and whether any of its GPUs is simulated."""
    node = store.nodes.get(fill.node_id)
    return (node.region, node.simulated) if node else ("", False)
