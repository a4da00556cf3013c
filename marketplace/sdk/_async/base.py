"""What every part of the API shares: its connection, who signs, and for which market."""

from marketplace.sdk._async.transport import AsyncTransport
from marketplace.sdk.session import Session
from marketplace.sdk.waiting import async_run
from marketplace.wire.market import MarketConfig
from settlement.eip712 import Struct
from settlement.signing import Signer, sign


class AsyncResource:
    """A part of the API."""

    def __init__(self, transport: AsyncTransport, session: Session) -> None:
        self._transport = transport
        self._session = session

    async def _market(self, fresh: bool = False) -> MarketConfig:
        """The market's config, fetched once and checked against the pins."""
        if self._session.market is not None and not fresh:
            return self._session.market
        return self._session.accept(await self._transport.get(MarketConfig, "/v1/config"))

    async def _signer(self, given: Signer | None) -> Signer:
        """Who signs: whoever is given, else the session's key."""
        return given if given is not None else await async_run(self._session.signer)

    async def _sign(self, struct: Struct, signer: Signer | None) -> bytes:
        """A signature for the session's contracts."""
        who = await self._signer(signer)
        return await async_run(sign, struct, self._session.domain(), who)
