"""Nodes and asks: what a provider offers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from marketplace.sdk.checks import check_ask, read_document
from marketplace.sdk.decode import decode
from marketplace.sdk.flow import Flow, Query, Request, S, call, listing, op
from marketplace.sdk.models import AskInfo, Node, Prepared
from marketplace.sdk.resources.base import ApiResource, hex0x
from settlement.orders import Ask
from settlement.signing import Signer, sign


class Nodes(ApiResource[S]):
    """Machines of a provider."""

    @op
    def register(
        self, node: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Flow[Node]:
        """List a machine; `node` has the members of `POST /v1/nodes`."""
        request = Request("POST", "/v1/nodes", json=dict(node), idempotency_key=idempotency_key)
        return (yield from self._read(Node, request))

    @op
    def get(self, node_id: str) -> Flow[Node]:
        """One node."""
        return (yield from self._read(Node, Request("GET", f"/v1/nodes/{node_id}")))

    @listing
    def list(self, limit: int | None = None) -> Query[Node]:
        """Every node of the caller."""
        return Query("/v1/nodes", partial(decode, Node), {"limit": limit})

    @op
    def heartbeat(self, node_id: str) -> Flow[Any]:
        """Say that the node is alive."""
        request = Request("POST", f"/v1/nodes/{node_id}/heartbeat", json={}, repeatable=True)
        return (yield from self._json(request))

    @op
    def leave(self, node_id: str) -> Flow[Any]:
        """Say that the node's agent ends: its asks rest until the node is registered again."""
        request = Request("POST", f"/v1/nodes/{node_id}/leave", json={}, repeatable=True)
        return (yield from self._json(request))

    @op
    def drain(self, node_id: str) -> Flow[Node]:
        """Take no new jobs on this node until it is resumed; what runs goes on."""
        request = Request("POST", f"/v1/nodes/{node_id}/drain", json={}, repeatable=True)
        return (yield from self._read(Node, request))

    @op
    def resume(self, node_id: str) -> Flow[Node]:
        """Let a drained node take jobs again, from new asks."""
        request = Request("POST", f"/v1/nodes/{node_id}/resume", json={}, repeatable=True)
        return (yield from self._read(Node, request))


class Asks(ApiResource[S]):
    """Signed asks on the book."""

    @op
    def prepare(self, node_id: str, terms: Mapping[str, Any]) -> Flow[Prepared]:
        """Have an ask written out for signing; `terms` as in `POST /v1/asks/prepare`."""
        body = {"node_id": node_id, **terms}
        request = Request("POST", "/v1/asks/prepare", json=body, repeatable=True)
        return (yield from self._read(Prepared, request))

    @op
    def create(
        self, ask: Ask, signature: bytes, *, idempotency_key: str | None = None
    ) -> Flow[AskInfo]:
        """Put a signed ask on the book."""
        body = {"ask": ask.to_message(), "signature": hex0x(signature)}
        request = Request("POST", "/v1/asks", json=body, idempotency_key=idempotency_key)
        return (yield from self._read(AskInfo, request))

    @op
    def offer(
        self,
        node_id: str,
        terms: Mapping[str, Any],
        *,
        signer: Signer | None = None,
        idempotency_key: str | None = None,
    ) -> Flow[AskInfo]:
        """Have an ask written out, check it, sign it and put it on the book."""
        yield from self._market()
        who = signer or (yield from call(self._session.signer))
        prepared = yield from Asks.prepare.flow(self, node_id, terms)
        ask = read_document(Ask, prepared, self._session.domain())
        meter = str(terms.get("meter", ""))
        check_ask(ask, dict(terms), provider=who.address, meter=meter, now=int(time.time()))
        signature = yield from call(partial(sign, ask, self._session.domain(), who))
        key = idempotency_key or "ask-" + ask.struct_hash().hex()
        return (yield from Asks.create.flow(self, ask, signature, idempotency_key=key))

    @op
    def get(self, ask_id: str) -> Flow[AskInfo]:
        """One ask."""
        return (yield from self._read(AskInfo, Request("GET", f"/v1/asks/{ask_id}")))

    @listing
    def list(
        self,
        *,
        provider: str | None = None,
        node_id: str | None = None,
        tier: str | None = None,
        states: Sequence[str] = (),
        limit: int | None = None,
    ) -> Query[AskInfo]:
        """Asks on the book, all of them or by provider, node, tier or state."""
        params = {"provider": provider, "node_id": node_id, "tier": tier, "limit": limit}
        params["state"] = ",".join(states) or None
        return Query("/v1/asks", partial(decode, AskInfo), params)

    @op
    def cancel(self, ask_id: str) -> Flow[AskInfo]:
        """Take an ask off the book; leases it opened go on."""
        return (yield from self._read(AskInfo, Request("DELETE", f"/v1/asks/{ask_id}")))
