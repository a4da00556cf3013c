# Written by scripts/lib/unasync.py from the file of this name in _async: change that one.
"""The client: every part of the API on one connection pool."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import httpx

from marketplace.sdk._sync.blobs import Blobs
from marketplace.sdk._sync.jobs import Jobs
from marketplace.sdk._sync.keys import Keys
from marketplace.sdk._sync.leases import Attestations, Leases
from marketplace.sdk._sync.market import Market
from marketplace.sdk._sync.orders import Orders, TopUps
from marketplace.sdk._sync.provider import Asks, Nodes
from marketplace.sdk._sync.transport import Transport
from marketplace.sdk._sync.wallet import Wallet
from marketplace.sdk._sync.witnessing import Witness
from marketplace.sdk.http import DEFAULT_TIMEOUT, RetryPolicy, client_options
from marketplace.sdk.profile import ProfileFile
from marketplace.sdk.session import Session, session_of
from settlement.signing import Signer


class Coulomb:
    """a client of one market. Close it, or use it in an `with` block."""

    def __init__(
        self,
        api_url: str,
        api_key: str | None = None,
        *,
        signer: Signer | None = None,
        witness: Signer | None = None,
        session: Session | None = None,
        retry: RetryPolicy | None = None,
        timeout: httpx.Timeout | float = DEFAULT_TIMEOUT,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        options = client_options(api_url, api_key, timeout)
        self._http = httpx.Client(**options, transport=transport)
        self.session = session or Session.of(signer, witness)
        parts = (Transport(self._http, retry or RetryPolicy()), self.session)
        self.market = Market(*parts)
        self.keys = Keys(*parts)
        self.nodes = Nodes(*parts)
        self.asks = Asks(*parts)
        self.jobs = Jobs(*parts)
        self.leases = Leases(*parts)
        self.attestations = Attestations(*parts)
        self.blobs = Blobs(*parts)
        self.witness = Witness(*parts)
        self.wallet = Wallet(*parts)
        self.top_ups = TopUps(*parts)
        self.orders = Orders(*parts)

    @classmethod
    def from_profile(cls, name: str | None = None, **options: Any) -> Self:
        """A client as the profile file and the environment say."""
        file = ProfileFile()
        profile = file.get(name)
        options.setdefault("session", session_of(profile, file))
        return cls(profile.api_url, profile.api_key, **options)

    def close(self) -> None:
        """Close the connections and the witness's journal."""
        self._http.close()
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
