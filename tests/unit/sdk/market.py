"""A market behind an httpx transport: a few lines of state, honest unless a test bends it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from marketplace.data import load_tiers
from marketplace.domain.bidding import bid_template
from marketplace.domain.jobfile import parse_job
from marketplace.domain.key_request import KeyRequest
from marketplace.domain.pricing import prices_from_json
from marketplace.wire.base import Money
from settlement.eip712 import Domain, text32
from settlement.orders import Ask, Bid
from settlement.signing import LocalSigner, verify

DOMAIN = Domain(31337, "0x" + "e" * 40)
TOKEN = "0x" + "7" * 40
OPENER = "0x" + "0" * 38 + "aa"
BUYER, WITNESS, PROVIDER, METER = (LocalSigner(n.to_bytes(32, "big")) for n in (11, 12, 13, 14))

Bend = Callable[[dict[str, Any]], None]


def money(atoms: int) -> dict[str, str]:
    return Money.of(atoms, "CMP", 18).to_json()


@dataclass
class FakeMarket:
    """`bend[name]` changes a document before it is answered; `seen` keeps what arrived."""

    bend: dict[str, Bend] = field(default_factory=dict)
    seen: list[tuple[str, str, Any, httpx.Headers]] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    states: list[str] = field(default_factory=lambda: ["succeeded"])
    domain: Domain = DOMAIN

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = request.content
        path = request.url.path.removeprefix("/v1/")
        is_json = request.headers.get("content-type") == "application/json"
        parsed = json.loads(body) if body and is_json else body
        self.seen.append((request.method, path, parsed, request.headers))
        name = f"{request.method} {path}"
        handler = getattr(self, "on_" + path.split("/")[0])
        status, answer = handler(request.method, path.split("/")[1:], parsed)
        if name in self.bend and isinstance(answer, dict):
            self.bend[name](answer)
        if isinstance(answer, bytes):
            return httpx.Response(status, content=answer)
        return httpx.Response(status, json=answer)

    def paths(self) -> list[str]:
        return [f"{method} {path}" for method, path, _, _ in self.seen]

    def on_config(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        return 200, {
            "chain_id": self.domain.chain_id,
            "contracts": {
                "ComputeToken": TOKEN,
                "ComputeEscrow": self.domain.verifying_contract,
            },
            "currency": "CMP",
            "decimals": 18,
            "fee_bps": 100,
            "windows": {"settle_seconds": 60},
            "opener": OPENER,
            "interval_ms": 1000,
            "confirmations": 0,
            "server_time": "2026-01-01T00:00:00Z",
        }

    def on_blobs(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        if method == "GET":
            return 200, self.blobs[rest[0]]
        digest = hashlib.sha256(body).hexdigest()
        self.blobs[digest] = body
        return 201, {"sha256": digest, "size": len(body)}

    def on_bids(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        spec = parse_job(body["job"], packed=True, tiers=load_tiers())
        bid = bid_template(
            spec,
            load_tiers(),
            buyer=body["account"],
            witness=body["witness"],
            max_fee_bps=100,
            expiry=int(time.time()) + 3600,
            salt=0,
            opener=OPENER,
        )
        plan = {
            "matches": [],
            "no_match": None,
            "max_cost": money(5),
            "balance": money(9),
            "shortfall": money(0),
        }
        document = bid.typed_data(self.domain)
        return 200, {"typed_data": document, "bid": bid.to_message(), "plan": plan}

    def on_jobs(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        if method == "POST" and not rest:
            bid = Bid.from_message(body["bid"])
            verify(bid, self.domain, bytes.fromhex(body["signature"][2:]), bid.buyer)
            spec = parse_job(body["job"], packed=True)
            assert bid.job_hash == spec.hash()
            self.jobs["job_1"] = {
                "id": "job_1",
                "name": spec.name,
                "account": bid.buyer,
                "bid_id": "bid_1",
                "job_hash": "0x" + bid.job_hash.hex(),
                "spec": body["job"],
            }
            return 202, {**self.jobs["job_1"], "state": "queued"}
        if rest[1:] == ["receipt"]:
            return 404, {"code": "not_found", "title": "Not found", "detail": "no receipt yet"}
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return 200, {**self.jobs[rest[0]], "state": state}

    def on_witness(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        return 200, {"data": []}

    def on_keys(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        if rest == ["prepare"]:
            scopes = text32(",".join(body["scopes"]))
            request = KeyRequest(
                body["account"], text32(body["name"]), scopes, int(time.time()), 0, 0, 7
            )
            return 200, {
                "typed_data": request.typed_data(self.domain),
                "message": request.to_message(),
            }
        request = KeyRequest.from_message(body["message"])
        verify(request, self.domain, bytes.fromhex(body["signature"][2:]), request.account)
        return 201, {
            "id": "key_1",
            "name": "laptop",
            "scopes": list(request.scope_names),
            "account": request.account,
            "created_at": "2026-01-01T00:00:00Z",
            "key": "coul_secret",
        }

    def on_asks(self, method: str, rest: list[str], body: Any) -> tuple[int, Any]:
        if rest == ["prepare"]:
            return 200, {"typed_data": self.ask(body).typed_data(self.domain)}
        ask = Ask.from_message(body["ask"])
        verify(ask, self.domain, bytes.fromhex(body["signature"][2:]), ask.provider)
        return 201, {
            "id": "ask_1",
            "ask": body["ask"],
            "signature": body["signature"],
            "hash": "0x" + ask.struct_hash().hex(),
            "node_id": "node_1",
            "state": "open",
        }

    def ask(self, terms: dict[str, Any]) -> Ask:
        return Ask(
            provider=PROVIDER.address, meter=terms["meter"], opener=OPENER,
            node=1, tier=text32("H100-80GB-SXM"), gpu_milli=1000, cpu_milli=0, memory_mib=0,
            storage_mib=0, floor=prices_from_json(terms["prices"]), min_seconds=0,
            max_seconds=3600, start_limit_seconds=60, unit=bytes(32),
            starts_at=0, flags=0, max_fee_bps=100, expiry=int(time.time()) + 3600, salt=1,
        )  # fmt: skip
