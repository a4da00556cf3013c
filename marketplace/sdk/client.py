"""The two clients: the same resources on a plain and on an async shell."""

from __future__ import annotations

from types import TracebackType
from typing import Generic, Self

import httpx

from marketplace.sdk.flow import Async, S, Shell, Sync
from marketplace.sdk.resources.blobs import Blobs
from marketplace.sdk.resources.leases import Attestations, Leases
from marketplace.sdk.resources.provider import Asks, Nodes
from marketplace.sdk.shells import DEFAULT_TIMEOUT, LIMITS, AsyncShell, SyncShell
from marketplace.sdk.transfer import RetryPolicy

USER_AGENT = "coulomb-python/0.1"


class Api(Generic[S]):
    """Every resource, on one shell."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self.nodes: Nodes[S] = Nodes(shell)
        self.asks: Asks[S] = Asks(shell)
        self.leases: Leases[S] = Leases(shell)
        self.attestations: Attestations[S] = Attestations(shell)
        self.blobs: Blobs[S] = Blobs(shell)


def _headers(api_key: str | None) -> dict[str, str]:
    headers = {"User-Agent": USER_AGENT, "Accept": "application/json"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    return headers


class Coulomb(Api[Sync]):
    """The sync client. Close it, or use it in a `with` block."""

    def __init__(
        self,
        api_url: str,
        api_key: str | None = None,
        *,
        retry: RetryPolicy | None = None,
        timeout: httpx.Timeout | float = DEFAULT_TIMEOUT,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(
            base_url=api_url,
            headers=_headers(api_key),
            timeout=timeout,
            limits=LIMITS,
            transport=transport,
        )
        super().__init__(SyncShell(self._http, retry or RetryPolicy()))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncCoulomb(Api[Async]):
    """The async client. Close it, or use it in an `async with` block."""

    def __init__(
        self,
        api_url: str,
        api_key: str | None = None,
        *,
        retry: RetryPolicy | None = None,
        timeout: httpx.Timeout | float = DEFAULT_TIMEOUT,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(
            base_url=api_url,
            headers=_headers(api_key),
            timeout=timeout,
            limits=LIMITS,
            transport=transport,
        )
        super().__init__(AsyncShell(self._http, retry or RetryPolicy()))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
