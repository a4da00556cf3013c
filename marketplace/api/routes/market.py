"""What the market tells of itself, its book, quotes from it, and work for witnesses."""

from marketplace.api.edge import Buyer, EdgeDep, Id, Routes, Words
from marketplace.api.problems import AUTH, kind_of
from marketplace.db.store import Store
from marketplace.errors import ERRORS, NotFound
from marketplace.services.views import config_view, tier_view
from marketplace.wire.leases import PendingList
from marketplace.wire.market import BookView, Health, MarketConfig, TierList
from marketplace.wire.orders import QuoteAnswer, QuoteRequest
from marketplace.wire.problems import ProblemKind, ProblemList

routes = Routes()


@routes.reads("GET /health", "get_health")
def health(edge: EdgeDep, store: Store) -> Health:
    """Say that the server and its database work."""
    head = store.chain_cursor()
    last = store.order_log.last_seq()
    return Health(status="ok", chain_block=head.number if head else None, order_log=last)


@routes.on("GET /config", "get_config")
def config(edge: EdgeDep) -> MarketConfig:
    """Chain, contracts, windows, fee and intervals of this market."""
    return config_view(edge.catalog.market, edge.catalog.clock())


@routes.on("GET /problems", "list_problems")
def list_problems() -> ProblemList:
    """Every stable error code with its status and meaning."""
    return ProblemList(data=tuple(kind_of(kind) for kind in ERRORS.values()))


@routes.on("GET /problems/{code}", "get_problem", "not_found")
def get_problem(code: Id) -> ProblemKind:
    """One stable error code."""
    if code not in ERRORS:
        raise NotFound("no such code")
    return kind_of(ERRORS[code])


@routes.on("GET /tiers", "list_tiers")
def list_tiers(edge: EdgeDep) -> TierList:
    """Classes of GPU, with reference prices of real markets."""
    tiers = edge.catalog.tiers
    return TierList(data=tuple(tier_view(tier) for tier in tiers), source=tiers.source)


@routes.on("GET /book", "get_book")
def book(edge: EdgeDep, tier: Words = None) -> BookView:
    """Asks in the book, best price first, and how many bids rest."""
    return edge.catalog.quotes.book(tier)


@routes.reads("POST /quotes", "quote_job", "invalid_job")
def quote(edge: EdgeDep, store: Store, body: QuoteRequest) -> QuoteAnswer:
    """What fits a job now, best first; if nothing does, why, and the cheapest change."""
    return edge.catalog.quotes.quote(store, body.job)


@routes.reads("GET /witness/pending", "list_witness_pending", *AUTH)
def pending(edge: EdgeDep, store: Store, caller: Buyer) -> PendingList:
    """What each open lease of the caller wants signed: one poll for a whole witness."""
    return edge.catalog.leases.pending(store, caller)
