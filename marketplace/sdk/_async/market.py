"""The market and one's own account: book and prices, API keys, stored files, tokens."""

import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime

from marketplace.domain.drafts import key_request_of
from marketplace.limits import BLOB_BYTES_MAX
from marketplace.sdk import onchain
from marketplace.sdk._async.transport import AsyncResource
from marketplace.sdk.errors import InputError, ProtocolError, input_errors
from marketplace.sdk.http import json_of, read
from marketplace.sdk.jobfile import JobSource, load_job
from marketplace.sdk.keyring import parse_address
from marketplace.sdk.onchain import Funds, Moved, Unit
from marketplace.sdk.waiting import async_run
from marketplace.wire.jobs import Blob
from marketplace.wire.market import (
    Account,
    ApiKey,
    BookView,
    Health,
    MarketConfig,
    NewApiKey,
    SignedKeyRequest,
    TierInfo,
)
from marketplace.wire.orders import QuoteAnswer, QuoteRequest
from settlement.signing import Signer


class AsyncMarket(AsyncResource):
    """The market itself."""

    async def health(self) -> Health:
        """Whether it is up, and how far it has come with the chain."""
        return await self._transport.get(Health, "/v1/health")

    async def config(self) -> MarketConfig:
        """Contracts, fees and windows, checked against what this client is pinned to."""
        return await self._market(fresh=True)

    def tiers(self) -> AsyncIterator[TierInfo]:
        """Classes of GPU."""
        return self._transport.pages(TierInfo, "/v1/tiers")

    async def book(self, tier: str | None = None) -> BookView:
        """Resting asks, best first, and how many bids rest."""
        return await self._transport.get(BookView, "/v1/book", tier=tier)

    async def quote(self, source: JobSource) -> QuoteAnswer:
        """What a job would find on the book now; its folder is neither packed nor sent."""
        spec, _ = await async_run(load_job, source)
        body = QuoteRequest(job=replace(spec, workdir=None).to_json())
        return await self._transport.post(QuoteAnswer, "/v1/quotes", body, repeatable=True)

    async def account(self, address: str) -> Account:
        """One's own money in the escrow, and the salt that one's next order takes."""
        return await self._transport.get(Account, f"/v1/accounts/{address}")


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
        """Sign for a new key and fetch it; its `key` is in this answer and never again.

        In a session with a purse the key is the purse's.
        """
        await self._market()
        who = await self._signer(signer)
        with input_errors():
            request = key_request_of(
                self._session.account_of(who),
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


class AsyncBlobs(AsyncResource):
    """Files up to 64 MiB, stored by content."""

    async def put(self, content: bytes) -> Blob:
        """Store a file. Raises InputError above 64 MiB, ProtocolError if another one is stored."""
        if len(content) > BLOB_BYTES_MAX:
            raise InputError(f"{len(content)} bytes exceed the limit of {BLOB_BYTES_MAX} (64 MiB)")
        answer = await self._transport.send("POST", "/v1/blobs", content=content, repeatable=True)
        blob = read(Blob, json_of(answer))
        if (blob.sha256, blob.size) != (hashlib.sha256(content).hexdigest(), len(content)):
            raise ProtocolError(f"the server stored {blob.sha256}, which is not what was sent")
        return blob

    async def get(self, sha256: str) -> bytes:
        """Fetch a file and check it against its name. Raises ProtocolError if it differs."""
        path = f"/v1/blobs/{sha256}"
        content = await self._transport.send("GET", path, bytes_max=BLOB_BYTES_MAX)
        if hashlib.sha256(content).hexdigest() != sha256.lower():
            raise ProtocolError(f"the server's answer for blob {sha256} has another SHA-256")
        return content


class AsyncWallet(AsyncResource):
    """The signer's tokens, into and out of the escrow, straight on the chain.

    Looking and withdrawing work with the server down if the profile says chain, escrow and RPC
    node: an exit needs nobody. A deposit asks the server first, so that none goes into an escrow
    that the market has left.
    """

    async def funds(self, address: str | None = None) -> Funds:
        """What an account (the signer's unless given) holds, read from the chain."""
        market = await self._known_market()
        who = parse_address(address) if address else await async_run(self._session.address)
        return await async_run(onchain.funds, self._session, market, who)

    async def unit(self) -> Unit:
        """What amounts are in, read from the chain."""
        return await async_run(onchain.unit, self._session, await self._known_market())

    async def deposit(
        self, atoms: int, *, signer: Signer | None = None, permit: bool = True
    ) -> Moved:
        """Move tokens into the escrow: by permit in one transaction, or by approval in two.

        Raises NotEnough, InputError for a purse.
        """
        self.require_own()
        market = await self._market()
        who = onchain.transacting(await self._signer(signer))
        return await async_run(onchain.deposit, self._session, market, who, atoms, permit)

    async def withdraw(
        self, atoms: int, *, to: str | None = None, signer: Signer | None = None
    ) -> Moved:
        """Move free balance out, to the signer unless told otherwise.

        Raises InputError for a wrong address, for nothing or for a purse, NotEnough.
        """
        self.require_own()
        receiver = parse_address(to) if to is not None else None
        market = await self._known_market()
        who = onchain.transacting(await self._signer(signer))
        return await async_run(
            onchain.withdraw, self._session, market, who, receiver or who.address, atoms
        )
