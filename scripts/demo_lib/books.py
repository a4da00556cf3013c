"""The books, read only from the chain (events and balances at one block) and then compared with the
server's receipts. Amounts are atoms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from marketplace.sdk import Receipt
from settlement.chain.calls import LeaseRef
from settlement.chain.contracts import Escrow, Token
from settlement.events import Closed, Deposited, Opened, Stopped, lease_numbers
from settlement.leases import ChainLease, EscrowState, LeaseStatus, Params, replay
from settlement.ports import LoggedEvent


@dataclass(frozen=True, slots=True)
class SeenLease:
    """One lease by its events. `cost` is what its measured usage costs at its rate, worked
    out here; `released` is what the contract says it paid, fee included.
    """

    state: ChainLease
    locked: int
    cost: int
    released: int
    refunded: int
    transactions: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """Where every deposited atom is. `earned` is net of `fees`; `untouched` was never locked."""

    deposits: int
    earned: int
    fees: int
    refunds: int
    untouched: int
    locked: int
    held: int
    block: int

    @property
    def accounted(self) -> int:
        """What became of the deposits."""
        return self.earned + self.fees + self.refunds + self.untouched


@dataclass(frozen=True, slots=True)
class Books:
    """The chain's books and everything that is wrong in them."""

    leases: dict[bytes, SeenLease]
    sheet: Sheet
    problems: list[str] = field(default_factory=list)


def read_books(
    escrow: Escrow,
    token: Token,
    first_block: int,
    providers: Sequence[str],
    buyers: Sequence[str],
) -> Books:
    """Every event since the deployment, and the balances at the block of the last one read."""
    at = escrow.client.head().number
    logged = escrow.events(first_block, at)
    params = escrow.params(token.decimals())
    state = replay((item.event for item in logged), params)
    leases = {number: _lease(lease, params, logged) for number, lease in state.leases.items()}
    deposits = sum(i.event.amount for i in logged if isinstance(i.event, Deposited))
    sheet = Sheet(
        deposits=deposits,
        earned=sum(escrow.balance_of(p, at) for p in providers),
        fees=sum(escrow.fees_of(p, at) for p in providers),
        refunds=sum(lease.refunded for lease in leases.values()),
        untouched=deposits - sum(lease.locked for lease in leases.values()),
        locked=sum(lease.state.locked(params) for lease in leases.values()),
        held=token.balance_of(escrow.address, at),
        block=at,
    )
    problems = [
        *_sums(sheet, sum(escrow.balance_of(b, at) for b in buyers)),
        *_storage(escrow, state, at, (*providers, *buyers)),
        *(text for number, lease in leases.items() for text in _one(escrow, number, lease, at)),
    ]
    return Books(leases, sheet, problems)


def _lease(lease: ChainLease, params: Params, logged: Sequence[LoggedEvent]) -> SeenLease:
    own = [item for item in logged if lease.lease_no in lease_numbers(item.event)]
    events = [item.event for item in own]
    closed = [e for e in events if isinstance(e, Closed)]
    return SeenLease(
        state=lease,
        locked=sum(e.locked for e in events if isinstance(e, Opened)),
        cost=lease.released(params),
        released=sum(e.released for e in closed),
        refunded=sum(e.refunded for e in closed)
        + sum(e.unlocked for e in events if isinstance(e, Stopped)),
        transactions=tuple(
            dict.fromkeys((type(item.event).__name__, item.tx_hash) for item in own)
        ),
    )


def _sums(sheet: Sheet, buyers_hold: int) -> list[str]:
    """The sums that must be equal over the whole escrow."""
    parts = (
        ("earnings + fees + refunds + untouched", sheet.accounted, sheet.deposits, "deposits"),
        ("refunds + untouched", sheet.refunds + sheet.untouched, buyers_hold, "buyers' balances"),
        ("balances + fees", sheet.earned + sheet.fees + buyers_hold, sheet.held, "tokens held"),
        ("still locked", sheet.locked, 0, "nothing"),
    )
    return [f"{name} = {a}, but {other} = {b}" for name, a, b, other in parts if a != b]


def _storage(escrow: Escrow, state: EscrowState, at: int, accounts: Sequence[str]) -> list[str]:
    """Compare balances and fees in the contract's storage with the sum of its events."""
    found = []
    for account in accounts:
        pairs = (
            ("balance", escrow.balance_of(account, at), state.balances.get(account, 0)),
            ("fees", escrow.fees_of(account, at), state.fees.get(account, 0)),
        )
        found += [
            f"{account}: {what} is {held}, its events say {summed}"
            for what, held, summed in pairs
            if held != summed
        ]
    return found


def _one(escrow: Escrow, number: bytes, lease: SeenLease, at: int) -> list[str]:
    """Check that a lease paid its cost, refunded the rest and is closed."""
    state = lease.state
    ref = LeaseRef(state.buyer, state.provider, state.witness, number)
    parts = (
        ("released", lease.released, lease.cost, "its cost"),
        ("released + refunded", lease.released + lease.refunded, lease.locked, "its lock"),
        ("state", escrow.lease(ref, at).status, LeaseStatus.CLOSED, "closed"),
    )
    return [
        f"lease 0x{number.hex()}: {name} = {a}, but {other} = {b}"
        for name, a, b, other in parts
        if a != b
    ]


def compare_receipt(receipt: Receipt, lease: SeenLease | None) -> list[str]:
    """How a server's receipt differs from the chain."""
    if lease is None:
        return [f"{receipt.lease_id}: the chain has no such lease"]
    hashes = {(t.kind, t.tx_hash.lower()) for t in receipt.transactions}
    on_chain = {(kind, tx.lower()) for kind, tx in lease.transactions}
    pairs: tuple[tuple[str, object, object], ...] = (
        ("usage in ms", receipt.used_ms, lease.state.used_ms),
        ("cost", receipt.gross.atoms, lease.cost),
        ("lines' sum", sum(line.cost.atoms for line in receipt.lines), lease.cost),
        ("released", receipt.released.atoms, lease.released),
        ("refunded", receipt.refunded.atoms, lease.refunded),
        ("locked", receipt.locked.atoms, lease.locked),
        ("conserved", receipt.conserved, True),
        ("missing transactions", sorted(on_chain - hashes), []),
        ("transactions not on chain", sorted(t for t in hashes - on_chain), []),
    )
    return [
        f"{receipt.lease_id}: {what} is {said} on the receipt, {found} on chain"
        for what, said, found in pairs
        if said != found
    ]
