"""The book and quotes from it."""

from typing import Annotated

from fastapi import APIRouter

from marketplace.api.edge import EdgeDep, SoundRoute, Words
from marketplace.api.problems import documented
from marketplace.wire.market import BookView
from marketplace.wire.orders import QuoteAnswer, QuoteRequest

router = APIRouter(route_class=SoundRoute, tags=["book"])
TierName = Annotated[str | None, Words]


@router.get("/book", operation_id="get_book", responses=documented())
def book(edge: EdgeDep, tier: TierName = None) -> BookView:
    """Asks in the book, best price first, and how many bids rest."""
    return edge.catalog.quotes.book(tier)


@router.post("/quotes", operation_id="quote_job", responses=documented("invalid_job"))
def quote(edge: EdgeDep, body: QuoteRequest) -> QuoteAnswer:
    """What fits a job now, best first; if nothing does, why, and the cheapest change."""
    with edge.database.read() as store:
        return edge.catalog.quotes.quote(store, body.job)
