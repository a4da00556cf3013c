"""The client's own calls of the chain, past the server, and what it checks before it signs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from marketplace.domain.pricing import from_scaled
from marketplace.sdk.errors import ConfigError, InputError, NotEnough, VerificationError
from marketplace.sdk.session import Session
from marketplace.wire.leases import Lease
from marketplace.wire.market import MarketConfig
from marketplace.wire.orders import AskInfo, BidInfo
from settlement.consent import NOTHING, OPENED_BIDS, AccountReads, require_consent
from settlement.eip712 import Domain
from settlement.errors import SignatureError
from settlement.orders import Ask, Bid, Numbered, OpenedFrom, Permit
from settlement.signing import Signer, TransactionSigner, sign

if TYPE_CHECKING:
    from settlement.chain.contracts import Escrow, Token

PERMIT_SECONDS = 3_600
FREE = "are free in the escrow"


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
    """One transaction that was mined."""

    tx_hash: str
    block_number: int
    gas_used: int


def reach(session: Session, market: MarketConfig | None) -> tuple[Escrow, Token]:
    """The session's escrow and its token, on a node of the right chain. Raises ConfigError."""
    from settlement.chain.client import ChainClient
    from settlement.chain.contracts import Escrow, Token

    url = session.chain_url(market)
    if not url:
        raise ConfigError("no chain is known", fix="set ETH_RPC_URL or rpc_url in the profile")
    domain = session.domain()
    client = ChainClient(url, domain.chain_id)
    client.check()
    escrow = Escrow(client, domain.verifying_contract)
    return escrow, Token(client, escrow.config().token)


def transacting(signer: Signer) -> TransactionSigner:
    """A signer that also sends. Raises ConfigError."""
    if not hasattr(signer, "sign_transaction"):
        raise ConfigError(f"{signer.address} can sign orders but no transactions")
    return cast(TransactionSigner, signer)


def funds(session: Session, market: MarketConfig | None, address: str) -> Funds:
    """What an account holds."""
    escrow, token = reach(session, market)
    wei = escrow.client.balance(address)
    return Funds(address, token.balance_of(address), escrow.balance_of(address), wei)


def unit(session: Session, market: MarketConfig | None) -> Unit:
    """What the escrow's token counts in."""
    return unit_of(reach(session, market)[1])


def unit_of(token: Token) -> Unit:
    """What a token counts in."""
    return Unit(token.symbol(), token.decimals())


def next_call(session: Session, market: MarketConfig, account: str) -> tuple[int, int]:
    """The lowest number that a signed call of the account may have, and the chain's time.

    Numbers are used up one by one, so looking at every one of them is not needed.
    """
    escrow = reach(session, market)[0]
    low = escrow.salts_from(account, Numbered.CALLS)
    step = 1

    def is_free(salt: int) -> bool:
        state = escrow.salt_state(account, salt, Numbered.CALLS)
        return not state.used and not state.cancelled

    if is_free(low):
        return low, escrow.client.timestamp()
    while not is_free(low + step):
        low, step = low + step, step * 2
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_free(middle) else (middle, high)
    return high, escrow.client.timestamp()


def check_withdrawal(session: Session, market: MarketConfig, account: str, atoms: int) -> None:
    """Refuse to move nothing, or more than is free. Raises InputError, NotEnough."""
    check_amount(atoms, reach(session, market)[0].balance_of(account), market)


def orders_from(session: Session, market: MarketConfig, account: str) -> int:
    """The least salt whose order is not void."""
    return reach(session, market)[0].salts_from(account)


def send(session: Session, market: MarketConfig, who: TransactionSigner, data: bytes) -> Moved:
    """One call of the session's escrow."""
    return transact(reach(session, market)[0], who, data)


def deposit(
    session: Session, market: MarketConfig, who: TransactionSigner, atoms: int, by_permit: bool
) -> Moved:
    """Move tokens into the escrow: by permit in one transaction, else by approval, if need be.

    Raises InputError for nothing, NotEnough.
    """
    escrow, token = reach(session, market)
    held = token.balance_of(who.address)
    check_amount(atoms, held, unit_of(token), f"are at {who.address}")
    if by_permit:
        deadline = escrow.client.timestamp() + PERMIT_SECONDS
        nonce = token.permit_nonce(who.address)
        permit = Permit(who.address, escrow.address, atoms, nonce, deadline)
        signature = sign(permit, token.domain(), who)
        return transact(escrow, who, escrow.calls.deposit_with_permit(atoms, deadline, signature))
    if token.allowance(who.address, escrow.address) < atoms:
        escrow.client.transact(who, token.address, token.approve(escrow.address, atoms))
    return transact(escrow, who, escrow.calls.deposit(atoms))


def withdraw(
    session: Session, market: MarketConfig | None, who: TransactionSigner, to: str, atoms: int
) -> Moved:
    """Move free balance out of the escrow. Raises InputError for nothing, NotEnough."""
    escrow, token = reach(session, market)
    free = escrow.balance_of(who.address)
    check_amount(atoms, free, unit_of(token))
    return transact(escrow, who, escrow.calls.withdraw(to, atoms))


def signed_by(
    order: AskInfo | BidInfo, domain: Domain, account: str, reads: AccountReads | None
) -> Ask | Bid | None:
    """An order that names the account and that it, or a purse's operator, has signed, else None.

    Raises ChainError.
    """
    signed: Ask | Bid = order.ask if isinstance(order, AskInfo) else order.bid
    named = signed.provider if isinstance(signed, Ask) else signed.buyer
    if named != account:
        return None
    rule = NOTHING if isinstance(signed, Ask) else OPENED_BIDS
    try:
        require_consent(signed, domain, order.signature, account, reads, rule, now=0)
    except SignatureError:
        return None
    return signed


def top_up_call(
    lease: Lease,
    ask: AskInfo,
    bid: BidInfo,
    domain: Domain,
    buyer: str,
    seconds: int,
    reads: AccountReads | None,
) -> bytes:
    """The call that funds a lease for longer, from its orders, of which `buyer` signed the bid.

    A lease is what the server says; what it can't make up is our signature, and the lease's number
    follows from what we signed. Raises VerificationError, ChainError.
    """
    from settlement.chain.calls import EscrowCalls

    prices = lease.terms.prices if lease.terms is not None else ask.ask.floor
    opened = OpenedFrom(ask.ask, bid.bid, prices)
    if opened.lease_no != lease.lease_no:
        raise VerificationError(f"the orders of {lease.id} name another lease than it does")
    if signed_by(bid, domain, buyer, reads) is None:
        raise VerificationError(f"{buyer} did not sign the Bid of {lease.id}")
    if lease.terms is not None and lease.terms.rate != prices.rate(bid.bid.sizes()):
        raise VerificationError(f"the rate of {lease.id} does not follow from its prices")
    return EscrowCalls(domain.verifying_contract).top_up(opened, seconds)


def check_amount(atoms: int, held: int, unit: Unit | MarketConfig, where: str = FREE) -> None:
    """Refuse to move nothing, or more than there is. Raises InputError, NotEnough."""
    asked, there = (f"{from_scaled(n, unit.decimals)} {unit.currency}" for n in (atoms, held))
    if held < atoms:
        raise NotEnough(f"{asked} asked for, {there} {where}")
    if atoms <= 0:
        raise InputError(f"there is nothing to move: {there} {where}")


def transact(escrow: Escrow, who: TransactionSigner, data: bytes) -> Moved:
    """One call of the escrow, simulated, sent and mined."""
    mined = escrow.client.transact(who, escrow.address, data)
    return Moved(mined.tx_hash, mined.block_number, mined.gas_used)
