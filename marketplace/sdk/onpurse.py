"""Purses on the chain: what is checked before a call is sent, and what their terms say."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from marketplace.sdk.errors import InputError
from marketplace.sdk.onchain import Moved, check_amount, reach, transact, unit_of
from marketplace.sdk.session import Session
from marketplace.wire.market import MarketConfig
from settlement.consent import Purse
from settlement.orders import purse_of
from settlement.signing import TransactionSigner

if TYPE_CHECKING:
    from settlement.chain.contracts import Escrow

IN_PURSE = "are free in the purse"


@dataclass(frozen=True, slots=True)
class PurseInfo:
    """A purse as the chain has it: who owns and who operates it, the time until which the operator
    may spend from it (chain time, seconds), and its free atoms."""

    address: str
    owner: str
    operator: str
    expiry: int
    free: int


@dataclass(frozen=True, slots=True)
class MadePurse:
    """A new purse, and the transaction that made it."""

    address: str
    moved: Moved


def look(session: Session, market: MarketConfig | None, address: str) -> PurseInfo:
    """One purse. Raises InputError if there is none."""
    escrow, _ = reach(session, market)
    return _info(escrow, address, _need(escrow, address))


def find(
    session: Session, market: MarketConfig | None, account: str, from_block: int
) -> tuple[PurseInfo, ...]:
    """The purses that an account owns or operates, oldest first."""
    escrow, _ = reach(session, market)
    made = escrow.purses_of(account, from_block)
    return tuple(_info(escrow, each.purse, _need(escrow, each.purse)) for each in made)


def create(
    session: Session,
    market: MarketConfig | None,
    who: TransactionSigner,
    operator: str,
    seconds: int,
    atoms: int,
) -> MadePurse:
    """Make a purse that lives for so long and put atoms into it. Raises InputError, NotEnough."""
    escrow, token = reach(session, market)
    if atoms:
        check_amount(atoms, escrow.balance_of(who.address), unit_of(token))
    domain = session.domain()
    names = ((n, purse_of(domain, who.address, operator, n)) for n in count())
    salt, address = next((n, name) for n, name in names if escrow.purse(name) is None)
    expiry = escrow.client.timestamp() + seconds
    data = escrow.calls.create_purse(operator, salt, expiry, atoms)
    return MadePurse(address, transact(escrow, who, data))


def fund(
    session: Session, market: MarketConfig | None, who: TransactionSigner, purse: str, atoms: int
) -> Moved:
    """Move atoms of the owner's free balance into a purse. Raises InputError, NotEnough."""
    escrow, token = reach(session, market)
    _owned(escrow, purse, who.address)
    check_amount(atoms, escrow.balance_of(who.address), unit_of(token))
    return transact(escrow, who, escrow.calls.fund_purse(purse, atoms))


def sweep(
    session: Session, market: MarketConfig | None, who: TransactionSigner, purse: str, atoms: int
) -> Moved:
    """Move free atoms of a purse to its owner's balance. Raises InputError, NotEnough."""
    escrow, token = reach(session, market)
    _owned(escrow, purse, who.address)
    check_amount(atoms, escrow.balance_of(purse), unit_of(token), IN_PURSE)
    return transact(escrow, who, escrow.calls.sweep_purse(purse, atoms))


def expire(
    session: Session, market: MarketConfig | None, who: TransactionSigner, purse: str, seconds: int
) -> Moved:
    """Let a purse expire so many seconds from now; at once for none. Raises InputError."""
    escrow, _ = reach(session, market)
    terms = _owned(escrow, purse, who.address)
    now = escrow.client.timestamp()
    expiry = now + seconds if seconds else now - 1  # a purse still spends in its last second
    if expiry >= terms.expiry:
        left = terms.expiry - now
        when = f"in {left} s" if left >= 0 else f"since {-left} s ago"
        raise InputError(f"an expiry is only brought forward; this purse expires {when}")
    return transact(escrow, who, escrow.calls.expire_purse(purse, expiry))


def _need(escrow: Escrow, address: str) -> Purse:
    purse = escrow.purse(address)
    if purse is None:
        raise InputError(f"{address} is not a purse", fix="`coulomb purse list` shows yours")
    return purse


def _owned(escrow: Escrow, address: str, account: str) -> Purse:
    purse = _need(escrow, address)
    if purse.owner != account:
        raise InputError(f"the purse {address} belongs to {purse.owner}, not to {account}")
    return purse


def _info(escrow: Escrow, address: str, purse: Purse) -> PurseInfo:
    return PurseInfo(address, purse.owner, purse.operator, purse.expiry, escrow.balance_of(address))
