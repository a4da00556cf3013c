"""Nodes and asks: what a provider offers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from marketplace.domain.asking import AskingNode, ask_of
from marketplace.sdk._async.base import AsyncResource
from marketplace.sdk.checks import signed_by
from marketplace.sdk.errors import InputError, VerificationError
from marketplace.sdk.reading import input_errors
from marketplace.sdk.waiting import async_run
from marketplace.wire.market import Account, NewNode, Node
from marketplace.wire.orders import AskInfo, SignedAsk
from settlement.orders import Ask
from settlement.signing import Signer


class AsyncNodes(AsyncResource):
    """Machines of a provider."""

    async def register(
        self, node: NewNode | Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Node:
        """List a machine, or bring its entry up to date. Raises InputError."""
        with input_errors("the node"):
            body = node if isinstance(node, NewNode) else NewNode.model_validate(dict(node))
        return await self._transport.post(Node, "/v1/nodes", body, idempotency_key=idempotency_key)

    async def get(self, node_id: str) -> Node:
        """One node."""
        return await self._transport.get(Node, f"/v1/nodes/{node_id}")

    def list(self, limit: int | None = None) -> AsyncIterator[Node]:
        """Every node of the caller."""
        return self._transport.pages(Node, "/v1/nodes", limit=limit)

    async def heartbeat(self, node_id: str) -> Node:
        """Say that the node is alive."""
        return await self._tell(node_id, "heartbeat")

    async def leave(self, node_id: str) -> Node:
        """Say that the node's agent ends: its asks rest until the node is registered again."""
        return await self._tell(node_id, "leave")

    async def drain(self, node_id: str) -> Node:
        """Take no new jobs on this node until it is resumed; what runs goes on."""
        return await self._tell(node_id, "drain")

    async def resume(self, node_id: str) -> Node:
        """Let a drained node take jobs again, from new asks."""
        return await self._tell(node_id, "resume")

    async def _tell(self, node_id: str, what: str) -> Node:
        path = f"/v1/nodes/{node_id}/{what}"
        return await self._transport.post(Node, path, repeatable=True)


class AsyncAsks(AsyncResource):
    """Signed asks on the book."""

    async def prepare(self, node_id: str, terms: Mapping[str, Any]) -> Ask:
        """The ask that offers a node on these terms, to look at before `offer` signs it.

        Its sizes are the node's as the market lists it, the rest is `terms`: `meter`, `prices`,
        `unit`, `min_duration`, `max_duration`, `start_limit`, `expires_in`, `max_fee_bps`, `opener`
        as in `POST /v1/asks/prepare`. Raises InputError.
        """
        return await self._prepare(node_id, terms, None)

    async def _prepare(self, node_id: str, terms: Mapping[str, Any], provider: str | None) -> Ask:
        market = await self._market()
        node = await self._transport.get(Node, f"/v1/nodes/{node_id}")
        if provider not in (None, node.provider):
            raise InputError(f"{node_id} is a node of {node.provider}, not of {provider}")
        account = await self._transport.get(Account, f"/v1/accounts/{node.provider}")
        offer = AskingNode(
            provider=node.provider,
            number=node.number,
            tier=node.tier,
            gpu_count=len(node.gpus),
            cpu_milli=node.cpu_milli,
            memory_mib=node.memory_mib,
            storage_mib=node.storage_mib,
            shared=node.shared,
        )
        with input_errors("the terms"):
            return ask_of(
                offer,
                terms,
                opener=market.opener,
                fee_bps=market.fee_bps,
                now=int(time.time()),
                salt=self._session.take_salt(account.address, account.next_salt),
            )

    async def create(
        self, ask: Ask, signature: bytes, *, idempotency_key: str | None = None
    ) -> AskInfo:
        """Put a signed ask on the book."""
        body = SignedAsk(ask=ask, signature=signature)
        return await self._transport.post(
            AskInfo, "/v1/asks", body, idempotency_key=idempotency_key
        )

    async def offer(
        self,
        node_id: str,
        terms: Mapping[str, Any],
        *,
        signer: Signer | None = None,
        idempotency_key: str | None = None,
    ) -> AskInfo:
        """Write an ask as `prepare` does, sign it and put it on the book. Raises InputError."""
        who = await self._signer(signer)
        ask = await self._prepare(node_id, terms, who.address)
        signature = await self._sign(ask, who)
        key = idempotency_key or "ask-" + ask.struct_hash().hex()
        return await self.create(ask, signature, idempotency_key=key)

    async def get(self, ask_id: str) -> AskInfo:
        """One ask."""
        return await self._transport.get(AskInfo, f"/v1/asks/{ask_id}")

    async def own(self, ask_id: str, account: str) -> AskInfo:
        """One ask that the account has signed. Raises VerificationError."""
        await self._market()
        found = await self.get(ask_id)
        if await async_run(signed_by, found, self._session.domain(), account) is None:
            raise VerificationError(f"{account} did not sign {ask_id}")
        return found

    def list(
        self,
        *,
        provider: str | None = None,
        node_id: str | None = None,
        tier: str | None = None,
        states: Sequence[str] = (),
        limit: int | None = None,
    ) -> AsyncIterator[AskInfo]:
        """Asks on the book, all of them or by provider, node, tier or state."""
        return self._transport.pages(
            AskInfo,
            "/v1/asks",
            provider=provider,
            node_id=node_id,
            tier=tier,
            state=",".join(states) or None,
            limit=limit,
        )

    async def cancel(self, ask_id: str) -> AskInfo:
        """Take an ask off the book; leases it opened go on."""
        return await self._transport.delete(AskInfo, f"/v1/asks/{ask_id}")
