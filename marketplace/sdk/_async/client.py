"""The asynchronous client: every part of the API on one connection pool."""

from typing import Any, Self

import httpx

from marketplace.sdk._async.calls import AsyncCalls
from marketplace.sdk._async.jobs import AsyncJobs
from marketplace.sdk._async.leases import AsyncAttestations, AsyncLeases, AsyncWitness
from marketplace.sdk._async.market import AsyncBlobs, AsyncKeys, AsyncMarket, AsyncWallet
from marketplace.sdk._async.orders import AsyncAsks, AsyncNodes, AsyncOrders, AsyncTopUps
from marketplace.sdk._async.purses import AsyncPurses
from marketplace.sdk._async.transport import AsyncTransport
from marketplace.sdk.http import DEFAULT_TIMEOUT, RetryPolicy, client_options
from marketplace.sdk.profile import ProfileFile
from marketplace.sdk.session import Session, session_of
from settlement.signing import Signer


class AsyncCoulomb:
    """An asynchronous client of one market. Close it, or use it in an `async with` block."""

    def __init__(
        self,
        api_url: str,
        api_key: str | None = None,
        *,
        signer: Signer | None = None,
        witness: Signer | None = None,
        purse: str | None = None,
        session: Session | None = None,
        retry: RetryPolicy | None = None,
        timeout: httpx.Timeout | float = DEFAULT_TIMEOUT,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`purse`: the account that the signer, its operator, buys for. A session has its own."""
        options = client_options(api_url, api_key, timeout)
        self._http = httpx.AsyncClient(**options, transport=transport)
        self.session = session or Session.of(signer, witness, purse)
        parts = (AsyncTransport(self._http, retry or RetryPolicy()), self.session)
        self.market = AsyncMarket(*parts)
        self.keys = AsyncKeys(*parts)
        self.nodes = AsyncNodes(*parts)
        self.asks = AsyncAsks(*parts)
        self.jobs = AsyncJobs(*parts)
        self.leases = AsyncLeases(*parts)
        self.attestations = AsyncAttestations(*parts)
        self.blobs = AsyncBlobs(*parts)
        self.witness = AsyncWitness(*parts)
        self.wallet = AsyncWallet(*parts)
        self.calls = AsyncCalls(*parts)
        self.purses = AsyncPurses(*parts)
        self.top_ups = AsyncTopUps(*parts)
        self.orders = AsyncOrders(*parts)

    @classmethod
    def from_profile(cls, name: str | None = None, **options: Any) -> Self:
        """A client as the profile file and the environment say."""
        file = ProfileFile()
        profile = file.get(name)
        options.setdefault("session", session_of(profile, file))
        return cls(profile.api_url, profile.api_key, **options)

    async def aclose(self) -> None:
        """Close the connections and the witness's journal."""
        await self._http.aclose()
        self.session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
