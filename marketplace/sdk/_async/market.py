"""What anyone may ask a market: its contracts, tiers, book, prices; and one's own account."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from marketplace.sdk._async.base import AsyncResource
from marketplace.sdk.http import json_of
from marketplace.sdk.jobfile import JobSource, load_job
from marketplace.sdk.models import Account, MarketConfig, Tier
from marketplace.sdk.purchases import Book, QuoteAnswer
from marketplace.sdk.waiting import async_run


class AsyncMarket(AsyncResource):
    """The market itself."""

    async def health(self) -> Mapping[str, Any]:
        """Whether it is up, and which of its parts are."""
        found: Mapping[str, Any] = json_of(await self._transport.send("GET", "/v1/health"))
        return found

    async def config(self) -> MarketConfig:
        """Contracts, fees and windows, checked against what this client is pinned to."""
        return await self._market(fresh=True)

    def tiers(self) -> AsyncIterator[Tier]:
        """Classes of GPU."""
        return self._transport.pages(Tier, "/v1/tiers")

    async def book(self, tier: str | None = None) -> Book:
        """Resting asks, best first, and how many bids rest."""
        return await self._transport.get(Book, "/v1/book", tier=tier)

    async def quote(self, source: JobSource) -> QuoteAnswer:
        """What a job would find on the book now; its folder is neither packed nor sent."""
        spec, _ = await async_run(load_job, source)
        body = {"job": replace(spec, workdir=None).to_json()}
        return await self._transport.post(QuoteAnswer, "/v1/quotes", body, repeatable=True)

    async def account(self, address: str) -> Account:
        """One's own money in the escrow, and the salt that one's next order takes."""
        return await self._transport.get(Account, f"/v1/accounts/{address}")
