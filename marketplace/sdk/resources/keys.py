"""API keys: asked for by signature, shown once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

from marketplace.domain.key_request import KeyRequest
from marketplace.domain.pricing import from_scaled
from marketplace.sdk.checks import check_key_request, read_document
from marketplace.sdk.decode import decode
from marketplace.sdk.flow import Flow, Query, Request, S, call, listing, op
from marketplace.sdk.models import ApiKey, Prepared
from marketplace.sdk.resources.base import ApiResource, hex0x
from settlement.signing import Signer, sign


class Keys(ApiResource[S]):
    """The caller's API keys."""

    @op
    def create(
        self,
        name: str,
        scopes: Sequence[str] = ("buyer",),
        *,
        signer: Signer | None = None,
        expires_at: datetime | None = None,
        spend_cap_atoms: int | None = None,
    ) -> Flow[ApiKey]:
        """Sign for a new key and fetch it; its `key` is in this answer and never again."""
        market = yield from self._market()
        who = signer or (yield from call(self._session.signer))
        expires = int(expires_at.timestamp()) if expires_at else 0
        body: dict[str, Any] = {"account": who.address, "name": name, "scopes": list(scopes)}
        if expires_at:
            body["expires_at"] = expires
        if spend_cap_atoms:
            body["spend_cap"] = from_scaled(spend_cap_atoms, market.decimals)
        request = Request("POST", "/v1/keys/prepare", json=body, repeatable=True)
        prepared = yield from self._read(Prepared, request)
        message = read_document(KeyRequest, prepared, self._session.domain())
        check_key_request(
            message,
            account=who.address,
            name=name,
            scopes=scopes,
            expires_at=expires,
            spend_cap=spend_cap_atoms or 0,
            now=int(time.time()),
        )
        signature = yield from call(partial(sign, message, self._session.domain(), who))
        body = {"message": message.to_message(), "signature": hex0x(signature)}
        return (yield from self._read(ApiKey, Request("POST", "/v1/keys", json=body)))

    @listing
    def list(self, limit: int | None = None) -> Query[ApiKey]:
        """Every key of the caller."""
        return Query("/v1/keys", partial(decode, ApiKey), {"limit": limit})

    @op
    def revoke(self, key_id: str) -> Flow[Any]:
        """Make a key useless at once."""
        return (yield from self._json(Request("DELETE", f"/v1/keys/{key_id}")))
