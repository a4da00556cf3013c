"""Quotes: what a job would get now, and the plan that its buyer sees before signing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from marketplace.db.store import Store
from marketplace.domain.bidding import bid_template
from marketplace.domain.book import Book
from marketplace.domain.explain import explain
from marketplace.domain.job import JobSpec
from marketplace.domain.jobfile import parse_job
from marketplace.domain.matching import Fill
from marketplace.domain.order import RestingBid, Wants
from marketplace.domain.pricing import prices_to_json, rate_per_hour
from marketplace.domain.reader import milli_text
from marketplace.domain.tier import TierRegistry
from marketplace.errors import InvalidInput, Problem
from marketplace.services.bookkeeper import Bookkeeper
from marketplace.services.common import Principal, iso, money
from marketplace.services.ports import Clock, Market
from settlement.errors import FieldError
from settlement.orders import Bid

MATCHES_SHOWN = 20
BOOK_SHOWN = 500
EXPIRY_SLACK_S = 3_600
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
        seconds = spec.start_deadline_seconds + spec.retry_seconds + spec.max_seconds
        try:
            return bid_template(
                spec,
                self.tiers,
                buyer=buyer,
                witness=witness,
                max_fee_bps=self.market.fee_bps,
                expiry=self.clock() // 1000 + seconds + EXPIRY_SLACK_S,
                salt=salt,
                opener=self.market.opener,
            )
        except FieldError as error:
            raise InvalidInput([Problem(error.pointer, error.detail)]) from error

    def matches(self, spec: JobSpec, bid: Bid) -> tuple[list[Fill], dict[str, Any]]:
        """What fits now, best first; and why not, where nothing does.

        Looks at the book, so never inside a transaction that writes.
        """
        order = RestingBid("quote", "quote", bid, Wants.of(spec), seq=0)
        with self.books.view() as book:
            found = book.quote(order)
            return found, {} if found else self.why_not(book, order)

    def why_not(self, book: Book, order: RestingBid) -> dict[str, Any]:
        """Per constraint how many asks it eliminates, and the cheapest relaxation."""
        return explain(book, order).to_json()

    def book(self, tier: str | None) -> dict[str, Any]:
        """Asks in the book with what is free of them, best GPU price first, and resting bids."""
        with self.books.view() as book:
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
        found, why = self.matches(spec, self.draft(spec, NO_ONE, NO_ONE, 0))
        return {
            "matches": self._shown(store, found),
            "no_match": why or None,
        }

    def plan(
        self, store: Store, caller: Principal, spec: JobSpec, bid: Bid, balance: int
    ) -> dict[str, Any]:
        """What submitting would do: best match, maximum cost, and whether the balance covers it."""
        found, why = self.matches(spec, bid)
        shown = self._shown(store, found)
        free = balance - store.jobs.reserved_atoms(caller.account)
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

    def _shown(self, store: Store, found: list[Fill]) -> list[dict[str, Any]]:
        best = found[:MATCHES_SHOWN]
        store.nodes.hold(fill.node_id for fill in best)
        return [self.match_json(fill, node_facts(store, fill)) for fill in best]

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
