"""API keys: asked for by signature, shown once."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from marketplace.domain.key_request import key_request_of
from marketplace.sdk._async.base import AsyncResource
from marketplace.sdk.reading import input_errors
from marketplace.wire.market import ApiKey, NewApiKey, SignedKeyRequest
from settlement.signing import Signer


class AsyncKeys(AsyncResource):
    """The caller's API keys."""

    async def create(
        self,
        name: str,
        scopes: Sequence[str] = ("buyer",),
        *,
        signer: Signer | None = None,
        expires_at: datetime | None = None,
        spend_cap_atoms: int | None = None,
    ) -> NewApiKey:
        """Sign for a new key and fetch it; its `key` is in this answer and never again."""
        await self._market()
        who = await self._signer(signer)
        with input_errors():
            request = key_request_of(
                who.address,
                name,
                scopes,
                now=int(time.time()),
                nonce=secrets.randbits(128),
                expires_at=int(expires_at.timestamp()) if expires_at else 0,
                spend_cap=spend_cap_atoms or 0,
            )
        body = SignedKeyRequest(message=request, signature=await self._sign(request, who))
        return await self._transport.post(NewApiKey, "/v1/keys", body)

    def list(self, limit: int | None = None) -> AsyncIterator[ApiKey]:
        """Every key of the caller."""
        return self._transport.pages(ApiKey, "/v1/keys", limit=limit)

    async def revoke(self, key_id: str) -> ApiKey:
        """Make a key useless at once."""
        return await self._transport.delete(ApiKey, f"/v1/keys/{key_id}")
