"""The wallet: tokens into and out of the escrow, straight on the chain, no server between.

Looking and withdrawing work with the server down, where the profile says chain, escrow and RPC
node: an exit needs nobody. A deposit asks the server first, so that none goes into an escrow that
the market has left.

web3 is imported by the first call that needs the chain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from marketplace.domain.pricing import from_scaled
from marketplace.sdk.errors import ConfigError, NotEnough
from marketplace.sdk.flow import Flow, S, call, op
from marketplace.sdk.models import MarketConfig
from marketplace.sdk.resources.base import ApiResource
from settlement.signing import Signer, TransactionSigner, sign

if TYPE_CHECKING:
    from settlement.chain.contracts import Escrow, Token

PERMIT_SECONDS = 3_600


@dataclass(frozen=True, slots=True)
class Funds:
    """What an account holds, in atoms: tokens outside, free inside the escrow, wei for gas."""

    address: str
    tokens: int
    free: int
    wei: int


@dataclass(frozen=True, slots=True)
class Unit:
    """What the escrow's token counts in, as the token says it."""

    currency: str
    decimals: int


@dataclass(frozen=True, slots=True)
class Moved:
    """One transfer that was mined."""

    tx_hash: str
    block_number: int
    gas_used: int
    atoms: int


class ChainResource(ApiResource[S]):
    """A resource that reaches the chain by itself, past the server."""

    def _known_market(self) -> Flow[MarketConfig | None]:
        """The market, asked for only where the session doesn't know its contracts and a node."""
        if self._session.rpc_url and self._session.knows_contracts:
            return self._session.market
        return (yield from self._market())

    def _chain(self, market: MarketConfig | None) -> tuple[Escrow, Token]:
        from settlement.chain.client import ChainClient
        from settlement.chain.contracts import Escrow, Token

        url = self._session.rpc_url or (market.rpc_url if market else None)
        if not url:
            raise ConfigError("no chain is known", fix="set ETH_RPC_URL or rpc_url in the profile")
        domain = self._session.domain()
        client = ChainClient(url, domain.chain_id)
        client.check()
        escrow = Escrow(client, domain.verifying_contract)
        return escrow, Token(client, escrow.config().token)

    def _transact(self, escrow: Escrow, who: TransactionSigner, data: bytes) -> Moved:
        """One call of the escrow, simulated, sent and mined."""
        return _moved(escrow.client.transact(who, escrow.address, data), 0)


class Wallet(ChainResource[S]):
    """The signer's tokens."""

    @op
    def funds(self, address: str | None = None) -> Flow[Funds]:
        """What an account (the signer's unless given) holds, read from the chain."""
        market = yield from self._known_market()
        who = address or (yield from call(self._session.address))
        return (yield from call(partial(self._funds, market, who)))

    @op
    def unit(self) -> Flow[Unit]:
        """What amounts are in, read from the chain."""
        market = yield from self._known_market()
        return (yield from call(lambda: _unit(self._chain(market)[1])))

    @op
    def deposit(
        self, atoms: int, *, signer: Signer | None = None, permit: bool = True
    ) -> Flow[Moved]:
        """Move tokens into the escrow: by permit in one transaction, or by approve in two."""
        market = yield from self._market()
        who = signer or (yield from call(self._session.signer))
        move = self._deposit_by_permit if permit else self._deposit_by_approval
        return (yield from call(partial(move, market, transacting(who), atoms)))

    @op
    def withdraw(
        self, atoms: int, *, to: str | None = None, signer: Signer | None = None
    ) -> Flow[Moved]:
        """Move free balance out of the escrow, to the signer unless told otherwise."""
        market = yield from self._known_market()
        who = signer or (yield from call(self._session.signer))
        work = partial(self._withdraw, market, transacting(who), to or who.address, atoms)
        return (yield from call(work))

    def _funds(self, market: MarketConfig | None, address: str) -> Funds:
        escrow, token = self._chain(market)
        wei = escrow.client.balance(address)
        return Funds(address, token.balance_of(address), escrow.balance_of(address), wei)

    def _deposit_by_permit(self, market: MarketConfig, who: TransactionSigner, atoms: int) -> Moved:
        from settlement.permit import Permit

        escrow, token = self._chain(market)
        _require_tokens(market, token, who.address, atoms)
        deadline = escrow.client.timestamp() + PERMIT_SECONDS
        nonce = token.permit_nonce(who.address)
        permit = Permit(who.address, escrow.address, atoms, nonce, deadline)
        signature = sign(permit, token.domain(), who)
        data = escrow.calls.deposit_with_permit(atoms, deadline, signature)
        return _moved(escrow.client.transact(who, escrow.address, data), atoms)

    def _deposit_by_approval(
        self, market: MarketConfig, who: TransactionSigner, atoms: int
    ) -> Moved:
        escrow, token = self._chain(market)
        _require_tokens(market, token, who.address, atoms)
        if token.allowance(who.address, escrow.address) < atoms:
            escrow.client.transact(who, token.address, token.approve(escrow.address, atoms))
        data = escrow.calls.deposit(atoms)
        return _moved(escrow.client.transact(who, escrow.address, data), atoms)

    def _withdraw(
        self, market: MarketConfig | None, who: TransactionSigner, to: str, atoms: int
    ) -> Moved:
        escrow, token = self._chain(market)
        free = escrow.balance_of(who.address)
        if free < atoms:
            unit = _unit(token)
            asked, there = _text(unit, atoms), _text(unit, free)
            raise NotEnough(f"{asked} asked for, {there} are free in the escrow")
        data = escrow.calls.withdraw(to, atoms)
        return _moved(escrow.client.transact(who, escrow.address, data), atoms)


def _require_tokens(market: MarketConfig, token: Token, address: str, atoms: int) -> None:
    held = token.balance_of(address)
    if held < atoms:
        asked, there = _text(market, atoms), _text(market, held)
        raise NotEnough(f"{asked} to deposit, {address} holds {there}")


def _unit(token: Token) -> Unit:
    return Unit(token.symbol(), token.decimals())


def _text(unit: Unit | MarketConfig, atoms: int) -> str:
    return f"{from_scaled(atoms, unit.decimals)} {unit.currency}"


def _moved(receipt: Any, atoms: int) -> Moved:
    return Moved(receipt.tx_hash, receipt.block_number, receipt.gas_used, atoms)


def transacting(signer: Signer) -> TransactionSigner:
    """A signer that also sends. Raises ConfigError."""
    if not hasattr(signer, "sign_transaction"):
        raise ConfigError(f"{signer.address} can sign orders but no transactions")
    return cast(TransactionSigner, signer)
