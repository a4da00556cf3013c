"""The real application in this process, as a transport of the SDK; a test may bend its answers."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from structlog.testing import capture_logs

from marketplace.sdk import Coulomb, RetryPolicy
from marketplace.sdk.session import Session
from settlement.signing import LocalSigner
from tests.api_client import Api
from tests.market_world import World, key_of, sqlite_world

OPENER = key_of("opener").address
ONCE = RetryPolicy(attempts=1)
Bend = Callable[[dict[str, Any]], None]


@dataclass
class Served(httpx.BaseTransport):
    """One market behind a transport. `seen`: method, path and JSON of each request; `bend`: what
    changes an answer, by method and path (of its first part if the whole has none)."""

    api: Api
    state: Path
    seen: list[tuple[str, str, Any]] = field(default_factory=list)
    headers: list[httpx.Headers] = field(default_factory=list)
    bend: dict[str, Bend] = field(default_factory=dict)

    @property
    def world(self) -> World:
        return self.api.world

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v1/")
        is_json = request.headers.get("content-type") == "application/json"
        self.seen.append((request.method, path, json.loads(request.content) if is_json else None))
        self.headers.append(request.headers)
        answer = self.api.call(
            request.method,
            request.url.raw_path.decode().removeprefix("/v1"),
            content=request.content,
            headers=dict(request.headers),
        )
        bend = self.bend.get(f"{request.method} {path}") or self.bend.get(
            f"{request.method} {path.split('/')[0]}"
        )
        if bend is None or answer.status_code >= 400:
            headers = {"content-type": answer.headers["content-type"]}
            if "retry-after" in answer.headers:
                headers["retry-after"] = answer.headers["retry-after"]
            return httpx.Response(answer.status_code, content=answer.content, headers=headers)
        body = answer.json()
        bend(body)
        return httpx.Response(answer.status_code, json=body)

    def paths(self) -> list[str]:
        return [f"{method} {path}" for method, path, _ in self.seen]

    def sent(self, name: str) -> list[Any]:
        """The bodies of requests by method and path."""
        return [body for method, path, body in self.seen if f"{method} {path}" == name]

    def session(self, signer: LocalSigner, **known: Any) -> Session:
        witness = self.world.witness
        return Session(lambda: signer, lambda: witness, state=self.state, **known)

    def client(self, signer: LocalSigner | None = None, *scopes: str, **options: Any) -> Coulomb:
        """A client of an account (the buyer's unless said) with an API key."""
        who = signer or self.world.buyer
        key = self.api.key(who, *(scopes or ("buyer", "provider")))
        options.setdefault("session", self.session(who))
        options.setdefault("retry", ONCE)
        return Coulomb("http://market", key, transport=self, **options)


@contextmanager
def served(folder: Path, **fixed: Any) -> Iterator[Served]:
    """A fresh market whose clock shows the time of day; its buyer is funded."""
    folder.mkdir(parents=True, exist_ok=True)
    world = sqlite_world(folder, **{"opener": OPENER, **fixed})
    world.clock.ms = int(time.time() * 1000)
    world.fund()
    with capture_logs(), asyncio.Runner() as runner:  # the server's log is not the client's output
        api = Api(world, runner)
        yield Served(api, folder)
        api.close()
    world.database.close()


__all__ = ["ONCE", "OPENER", "Bend", "Served", "key_of", "served"]
