"""What anyone may ask a market: its contracts, tiers, book, prices; and one's own account."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from marketplace.sdk.decode import decode
from marketplace.sdk.flow import Flow, Query, Request, S, call, listing, op
from marketplace.sdk.jobfile import JobSource, load_job
from marketplace.sdk.models import Account, MarketConfig, Tier
from marketplace.sdk.purchases import Book, QuoteAnswer
from marketplace.sdk.resources.base import ApiResource


class Market(ApiResource[S]):
    """The market itself."""

    @op
    def health(self) -> Flow[Mapping[str, Any]]:
        """Whether it is up, and which of its parts are."""
        body: Mapping[str, Any] = yield from self._json(Request("GET", "/v1/health"))
        return body

    @op
    def config(self) -> Flow[MarketConfig]:
        """Contracts, fees and windows, checked against what this client is pinned to."""
        return (yield from self._market(fresh=True))

    @listing
    def tiers(self) -> Query[Tier]:
        """Classes of GPU."""
        return Query("/v1/tiers", partial(decode, Tier))

    @op
    def book(self, tier: str | None = None) -> Flow[Book]:
        """Resting asks, best first, and how many bids rest."""
        return (yield from self._read(Book, Request("GET", "/v1/book", {"tier": tier})))

    @op
    def quote(self, source: JobSource) -> Flow[QuoteAnswer]:
        """What a job would find on the book now; its folder is neither packed nor sent."""
        spec, _ = yield from call(partial(load_job, source))
        body = {"job": replace(spec, workdir=None).to_json()}
        request = Request("POST", "/v1/quotes", json=body, repeatable=True)
        return (yield from self._read(QuoteAnswer, request))

    @op
    def account(self, address: str) -> Flow[Account]:
        """One's own money in the escrow."""
        return (yield from self._read(Account, Request("GET", f"/v1/accounts/{address}")))
