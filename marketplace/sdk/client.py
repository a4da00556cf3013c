"""The two clients: the same resources on a plain and on an async shell."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self

import httpx

from marketplace.sdk.errors import ConfigError
from marketplace.sdk.flow import Async, S, Shell, Sync
from marketplace.sdk.profile import Profile, ProfileFile
from marketplace.sdk.resources.blobs import Blobs
from marketplace.sdk.resources.jobs import Jobs
from marketplace.sdk.resources.keys import Keys
from marketplace.sdk.resources.leases import Attestations, Leases
from marketplace.sdk.resources.market import Market
from marketplace.sdk.resources.orders import Orders, TopUps
from marketplace.sdk.resources.provider import Asks, Nodes
from marketplace.sdk.resources.wallet import Wallet
from marketplace.sdk.resources.witnessing import Witness
from marketplace.sdk.session import Session
from marketplace.sdk.shells import DEFAULT_TIMEOUT, LIMITS, AsyncShell, SyncShell
from marketplace.sdk.transfer import RetryPolicy
from settlement.signing import Signer

USER_AGENT = "coulomb-python/0.1"


class Api(Generic[S]):
    """Every resource, on one shell."""

    def __init__(self, shell: Shell, session: Session) -> None:
        self.session = session
        self.market: Market[S] = Market(shell, session)
        self.keys: Keys[S] = Keys(shell, session)
        self.nodes: Nodes[S] = Nodes(shell, session)
        self.asks: Asks[S] = Asks(shell, session)
        self.jobs: Jobs[S] = Jobs(shell, session)
        self.leases: Leases[S] = Leases(shell, session)
        self.attestations: Attestations[S] = Attestations(shell, session)
        self.blobs: Blobs[S] = Blobs(shell, session)
        self.witness: Witness[S] = Witness(shell, session)
        self.wallet: Wallet[S] = Wallet(shell, session)
        self.top_ups: TopUps[S] = TopUps(shell, session)
        self.orders: Orders[S] = Orders(shell, session)


def http_options(
    api_url: str, api_key: str | None, timeout: httpx.Timeout | float
) -> dict[str, Any]:
    """What both kinds of httpx client are made with."""
    if not api_url.startswith(("http://", "https://")):
        raise ConfigError(
            f"{api_url!r} is no API address", fix="it begins with http:// or https://"
        )
    headers = {"User-Agent": USER_AGENT, "Accept": "application/json"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    return {"base_url": api_url, "headers": headers, "timeout": timeout, "limits": LIMITS}


def session_of(profile: Profile, file: ProfileFile | None = None) -> Session:
    """A session that finds its keys where the profile says, and pins the market it first meets."""
    return Session(
        _key_of(profile.keystore, profile.password_file),
        _key_of(profile.witness_keystore, profile.witness_password_file or profile.password_file),
        chain_id=profile.chain_id,
        escrow=profile.escrow,
        on_pin=partial(_pin, file, profile.name) if file else None,
        rpc_url=profile.rpc_url,
    )


def _key_of(keystore: str | None, password_file: str | None) -> Callable[[], Signer] | None:
    if keystore is None:
        return None

    def find() -> Signer:
        from marketplace.sdk.keyring import unlock

        return unlock(keystore, password_file)

    return find


def _pin(file: ProfileFile, name: str, chain_id: int, escrow: str, token: str) -> None:
    if name in file.names():
        file.update(name, chain_id=chain_id, escrow=escrow, token=token)


def _own(signer: Signer | None) -> Callable[[], Signer] | None:
    return None if signer is None else lambda: signer


class Coulomb(Api[Sync]):
    """The sync client. Close it, or use it in a `with` block."""

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
        options = http_options(api_url, api_key, timeout)
        self._http = httpx.Client(**options, transport=transport)
        session = session or Session(_own(signer), _own(witness))
        super().__init__(SyncShell(self._http, retry or RetryPolicy()), session)

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


class AsyncCoulomb(Api[Async]):
    """The async client. Close it, or use it in an `async with` block."""

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
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        options = http_options(api_url, api_key, timeout)
        self._http = httpx.AsyncClient(**options, transport=transport)
        session = session or Session(_own(signer), _own(witness))
        super().__init__(AsyncShell(self._http, retry or RetryPolicy()), session)

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

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
