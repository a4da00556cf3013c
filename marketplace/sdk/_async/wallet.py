"""The wallet: tokens into and out of the escrow, straight on the chain, no server between.

Looking and withdrawing work with the server down if the profile says chain, escrow and RPC node:
an exit needs nobody. A deposit asks the server first, so that none goes into an escrow that the
market has left.
"""

from marketplace.sdk import onchain
from marketplace.sdk._async.base import AsyncResource
from marketplace.sdk.values import Funds, Moved, Unit
from marketplace.sdk.waiting import async_run
from marketplace.wire.market import MarketConfig
from settlement.signing import Signer


class AsyncWallet(AsyncResource):
    """The signer's tokens."""

    async def funds(self, address: str | None = None) -> Funds:
        """What an account (the signer's unless given) holds, read from the chain."""
        market = await self._known_market()
        who = address if address is not None else await async_run(self._session.address)
        return await async_run(onchain.funds, self._session, market, who)

    async def unit(self) -> Unit:
        """What amounts are in, read from the chain."""
        return await async_run(onchain.unit, self._session, await self._known_market())

    async def deposit(
        self, atoms: int, *, signer: Signer | None = None, permit: bool = True
    ) -> Moved:
        """Move tokens into the escrow: by permit in one transaction, or by approval in two.

        Raises NotEnough.
        """
        market = await self._market()
        who = onchain.transacting(await self._signer(signer))
        move = onchain.deposit_by_permit if permit else onchain.deposit_by_approval
        return await async_run(move, self._session, market, who, atoms)

    async def withdraw(
        self, atoms: int, *, to: str | None = None, signer: Signer | None = None
    ) -> Moved:
        """Move free balance out of the escrow, to the signer unless told otherwise.

        Raises NotEnough.
        """
        market = await self._known_market()
        who = onchain.transacting(await self._signer(signer))
        to = to or who.address
        return await async_run(onchain.withdraw, self._session, market, who, to, atoms)

    async def _known_market(self) -> MarketConfig | None:
        """The market, asked for only if the session doesn't know its contracts and a node."""
        if self._session.rpc_url and self._session.knows_contracts:
            return self._session.market
        return await self._market()
