"""Calls the HTTP application in this process: as anyone, with or without an API key."""

import asyncio
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx

from marketplace.api.app import MarketApi, create_api
from marketplace.api.edge import Edge
from marketplace.api.limits import Limits
from marketplace.api.problems import MEDIA_TYPE
from marketplace.domain.drafts import KeyRequest
from marketplace.errors import ERRORS
from marketplace.limits import STOP_SECONDS
from settlement.attestation import Close, Stop, UsageAttestation, voucher_for
from settlement.eip712 import Struct
from settlement.orders import Bid
from settlement.signing import LocalSigner, sign
from tests.market_world import World, job_spec, new_world
from tests.openapi_checks import OpenApi

MANY = Limits(per_minute=1_000_000, failed_logins_per_minute=1_000_000)


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The document of a refusal, its form checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    body: dict[str, Any] = response.json()
    assert (body["code"], body["status"]) == (code, status)
    assert body["type"] == f"/v1/problems/{code}"
    assert body["title"] == ERRORS[code].title
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["instance"].startswith("/v1/")
    return body


@cache
def _application() -> MarketApi:
    """One application per process: making its routes takes longer than most tests."""
    with new_world() as world:
        return create_api(world.catalog, world.database)


@cache
def openapi() -> OpenApi:
    """What the application says of itself: every answer is held against it."""
    return OpenApi(_application().openapi())


@dataclass(slots=True)
class Api:
    """A client of one market; `keys` remembers the API keys it has made."""

    world: World
    runner: asyncio.Runner
    limits: Limits = MANY
    app: MarketApi = field(init=False)
    http: httpx.AsyncClient = field(init=False)
    _edge: Edge = field(init=False)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        openapi()  # made before any request is timed
        self.app = _application()
        self._edge = Edge(self.world.catalog, self.world.database, self.limits)
        self._bind()
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://market/v1")

    def _bind(self) -> None:
        """Let the application serve this world, behind a gate that has counted nothing yet."""
        if self.app.state.edge is not self._edge:
            self.app.state.edge = self._edge
            self.app.limits = self.limits
            self.app.middleware_stack = None

    def close(self) -> None:
        self.runner.run(self.http.aclose())

    def call(
        self, method: str, path: str, key: str | None = None, **options: Any
    ) -> httpx.Response:
        """One request; `key` is an API key."""
        self._bind()
        headers = dict(options.pop("headers", {}))
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        return self.runner.run(self._checked(method, path, headers=headers, **options))

    async def _checked(self, method: str, path: str, **options: Any) -> httpx.Response:
        response = await self.http.request(method, path, **options)
        openapi().check(method, response.request.url, response)
        return response

    def together(self, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
        """Requests that run at the same time."""
        self._bind()

        async def gather() -> list[httpx.Response]:
            calls = [self._checked(m, path, **options) for m, path, options in requests]
            return await asyncio.gather(*calls)

        return self.runner.run(gather())

    def ok(self, response: httpx.Response) -> Any:
        """The JSON of a success."""
        assert response.status_code < 300, (response.status_code, response.text)
        return response.json()

    def key(self, signer: LocalSigner, *scopes: str) -> str:
        """An API key of an account, made through the API."""
        name = (signer.address, ",".join(scopes))
        if name not in self.keys:
            draft = {"account": signer.address, "name": "test", "scopes": list(scopes)}
            message = self.ok(self.call("POST", "/keys/prepare", json=draft))["message"]
            signed = {"message": message, "signature": self.sign_message(message, signer)}
            self.keys[name] = self.ok(self.call("POST", "/keys", json=signed))["key"]
        return self.keys[name]

    def sign_message(self, message: dict[str, Any], signer: LocalSigner) -> str:
        """The signature over a key request."""
        return self.sign(KeyRequest.from_message(message), signer)

    def sign(self, struct: Struct, signer: LocalSigner) -> str:
        return "0x" + sign(struct, self.world.domain, signer).hex()

    @property
    def buyer(self) -> str:
        return self.key(self.world.buyer, "buyer")

    @property
    def provider(self) -> str:
        return self.key(self.world.provider, "provider")

    # Bodies

    def submission(self, buyer: LocalSigner | None = None, **changes: Any) -> dict[str, Any]:
        """A signed job, ready for POST /jobs."""
        owner = buyer or self.world.buyer
        draft = {"job": job_spec(**changes), "witness": self.world.witness.address}
        prepared = self.ok(self.call("POST", "/bids/prepare", self.key(owner, "buyer"), json=draft))
        bid = Bid.from_message(prepared["bid"])
        return {"job": draft["job"], "bid": prepared["bid"], "signature": self.sign(bid, owner)}

    def attestation(
        self, lease_id: str, sequence: int, ms: int, signer: LocalSigner | None = None, **more: Any
    ) -> dict[str, Any]:
        said = self.world.statement(lease_id, sequence, ms, **more)
        return {
            "attestation": said.to_message(),
            "signature": self.sign(said, signer or self.world.meter),
        }

    def voucher(self, attestation: dict[str, Any]) -> dict[str, Any]:
        said = UsageAttestation.from_message(attestation["message"])
        voucher = voucher_for(said, metered=False)
        return {
            "voucher": voucher.to_message(),
            "signature": self.sign(voucher, self.world.witness),
        }

    def finish(self, lease_id: str, sequence: int, ms: int) -> dict[str, Any]:
        said = self.world.statement(lease_id, sequence, ms)
        close = Close(said.buyer, said.provider, said.lease_no, ms, 0, 0, False)
        return {
            "outcome": "succeeded",
            "exit_code": 0,
            "reason": "",
            "outputs": None,
            **self.attestation(lease_id, sequence, ms),
            "close": {
                "message": close.to_message(),
                "signature": self.sign(close, self.world.meter),
            },
        }

    def close_half(self, lease_id: str) -> dict[str, Any]:
        close = Close.from_message(self.world.lease(lease_id).close)
        return {"signature": self.sign(close, self.world.witness)}

    def stop(
        self,
        lease_id: str,
        signer: LocalSigner | None = None,
        again: bool = False,
        seconds: int = STOP_SECONDS,
    ) -> dict[str, Any]:
        """A Stop by the witness (or another), good for so long."""
        lease = self.world.lease(lease_id)
        deadline = self.world.clock() // 1000 + seconds
        stop = Stop(lease.buyer, lease.provider, lease.lease_bytes, again, deadline)
        return {
            "stop": stop.to_message(),
            "signature": self.sign(stop, signer or self.world.witness),
        }
