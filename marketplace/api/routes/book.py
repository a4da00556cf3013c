"""The book and quotes from it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter

from marketplace.api.edge import EdgeDep, SoundRoute, problems
from marketplace.api.schemas.base import Words
from marketplace.api.schemas.offers import BookView, Quote, QuoteIn

router = APIRouter(route_class=SoundRoute, tags=["book"])
TierName = Annotated[str | None, Words]


@router.get("/book", operation_id="get_book", response_model=BookView, responses=problems())
def book(edge: EdgeDep, tier: TierName = None) -> Any:
    """Asks in the book, best price first, and how many bids rest."""
    return edge.catalog.quotes.book(tier)


@router.post(
    "/quotes", operation_id="quote_job", response_model=Quote, responses=problems("invalid_job")
)
def quote(edge: EdgeDep, body: QuoteIn) -> Any:
    """What fits a job now, best first; where nothing does, why, and the cheapest way out."""
    with edge.database.read() as store:
        return edge.catalog.quotes.quote(store, body.job)
