"""What anyone may ask a market: its contracts, tiers, book, prices; and one's own account."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from marketplace.sdk._async.base import AsyncResource
from marketplace.sdk.jobfile import JobSource, load_job
from marketplace.sdk.waiting import async_run
from marketplace.wire.market import Account, BookView, Health, MarketConfig, TierInfo
from marketplace.wire.orders import QuoteAnswer, QuoteRequest


class AsyncMarket(AsyncResource):
    """The market itself."""

    async def health(self) -> Health:
        """Whether it is up, and how far it has come with the chain."""
        return await self._transport.get(Health, "/v1/health")

    async def config(self) -> MarketConfig:
        """Contracts, fees and windows, checked against what this client is pinned to."""
        return await self._market(fresh=True)

    def tiers(self) -> AsyncIterator[TierInfo]:
        """Classes of GPU."""
        return self._transport.pages(TierInfo, "/v1/tiers")

    async def book(self, tier: str | None = None) -> BookView:
        """Resting asks, best first, and how many bids rest."""
        return await self._transport.get(BookView, "/v1/book", tier=tier)

    async def quote(self, source: JobSource) -> QuoteAnswer:
        """What a job would find on the book now; its folder is neither packed nor sent."""
        spec, _ = await async_run(load_job, source)
        body = QuoteRequest(job=replace(spec, workdir=None).to_json())
        return await self._transport.post(QuoteAnswer, "/v1/quotes", body, repeatable=True)

    async def account(self, address: str) -> Account:
        """One's own money in the escrow, and the salt that one's next order takes."""
        return await self._transport.get(Account, f"/v1/accounts/{address}")
