"""Quotes: what a job would get now, and the plan that its buyer sees before signing."""

from dataclasses import dataclass
from typing import Any

from marketplace.db.store import Store
from marketplace.domain.book import Book
from marketplace.domain.drafts import bid_of
from marketplace.domain.explain import explain
from marketplace.domain.job import JobSpec, parse_job
from marketplace.domain.order import Fill, RestingBid, Wants
from marketplace.domain.tier import TierRegistry
from marketplace.services.bookkeeper import Bookkeeper
from marketplace.services.common import Principal
from marketplace.services.ports import Clock, Market
from marketplace.services.views import book_ask, match_view, no_match_view
from marketplace.wire.jobfile import JobFile
from marketplace.wire.market import BookView
from marketplace.wire.orders import MatchingAsk, Plan, QuoteAnswer
from marketplace.wire.problems import NoMatch
from settlement.orders import Bid

MATCHES_SHOWN = 20
BOOK_SHOWN = 500
NO_ONE = "0x" + "0" * 39 + "1"


@dataclass(frozen=True, slots=True)
class Quotes:
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

    def matches(self, spec: JobSpec, bid: Bid) -> tuple[list[Fill], NoMatch | None]:
        """What fits now, best first; and why not, if nothing does. It looks at the book: never
        call it inside a transaction that writes."""
        order = RestingBid("quote", bid, Wants.of(spec), seq=0)
        with self.books.view() as book:
            found = book.quote(order)
            return found, None if found else self.why_not(book, order)

    def why_not(self, book: Book, order: RestingBid) -> NoMatch:
        """Per constraint how many asks it eliminates, and the cheapest relaxation."""
        return no_match_view(self.market, explain(book, order))

    def book(self, tier: str | None) -> BookView:
        """Asks in the book with what is free of them, and how many bids rest. The best price of a
        GPU, or of a core if there is none, comes first."""
        with self.books.view() as book:
            views = [a for a in book.asks() if tier is None or a.ask.tier_name == tier]
            views.sort(key=lambda view: (view.lead_hour, view.seq))
            rows = []
            free: dict[tuple[str, int], tuple[str, int]] = {}
            for view in views[:BOOK_SHOWN]:
                row = book_ask(view)
                free[(row.provider, view.ask.node)] = (row.tier, row.free_gpu_milli)
                rows.append(row)
            depth: dict[str, int] = {}
            for name, milli in free.values():
                depth[name] = depth.get(name, 0) + milli
            bids = len(list(book.bids()))
        return BookView(tier=tier, asks=tuple(rows), bids=bids, depth=depth)

    def quote(self, store: Store, job: JobFile) -> QuoteAnswer:
        """Every match for a job, without an account."""
        spec = self.spec(job)
        found, why = self.matches(spec, self.draft(spec, NO_ONE, NO_ONE, 0))
        return QuoteAnswer(matches=self._shown(store, found), no_match=why)

    def plan(self, store: Store, caller: Principal, spec: JobSpec, bid: Bid, balance: int) -> Plan:
        """What submitting would do: best match, maximum cost, and whether the balance covers it."""
        found, why = self.matches(spec, bid)
        quote = QuoteAnswer(matches=self._shown(store, found), no_match=why)
        free = balance - store.jobs.reserved_atoms(caller.account)
        return Plan.of(quote, bid, free, self.market.currency, self.market.decimals)

    def _shown(self, store: Store, found: list[Fill]) -> tuple[MatchingAsk, ...]:
        best = found[:MATCHES_SHOWN]
        store.nodes.hold(fill.node_id for fill in best)
        store.asks.hold(fill.ask_id for fill in best)
        return tuple(match_view(store, self.market, fill) for fill in best)
