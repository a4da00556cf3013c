"""What the chain says about a world, read without the server: storage, events, and `cast`."""

import shutil
import subprocess
from pathlib import Path

from marketplace.sdk import Lease, Receipt
from settlement.chain.calls import LeaseRef
from settlement.events import ChainEvent, Deposited, Withdrawn
from settlement.leases import EscrowState, LeaseView, replay
from settlement.units import cost, fee_of
from tests.e2e.world import World
from tests.forked import ROOT


def events(world: World, last: int | None = None) -> tuple[ChainEvent, ...]:
    """Every event of the escrow up to block `last` (the newest unless given)."""
    last = world.chain_client.head().number if last is None else last
    return tuple(logged.event for logged in world.escrow.events(0, last))


def ref_of(lease: Lease) -> LeaseRef:
    """Where a lease is on chain."""
    return LeaseRef(lease.buyer, lease.provider, lease.witness, lease.lease_no)


def on_chain(world: World, lease: Lease) -> LeaseView:
    """A lease's storage."""
    return world.escrow.lease(ref_of(lease))


def assert_receipt_adds_up(receipt: Receipt, fee_bps: int) -> None:
    """A receipt's lines sum to what was released; nothing of the lock is missing."""
    gross = sum(line.cost.atoms for line in receipt.lines)
    assert gross == receipt.gross.atoms == receipt.released.atoms
    assert receipt.fee.atoms + receipt.net.atoms == receipt.gross.atoms
    assert receipt.locked.atoms == receipt.released.atoms + receipt.refunded.atoms
    assert receipt.conserved
    if {line.resource for line in receipt.lines} == {"gpu"}:
        assert receipt.fee.atoms == fee_of(gross, fee_bps)


def assert_paid_for_usage(view: LeaseView, receipt: Receipt) -> None:
    """What the chain released is the cost of the measured time at the frozen rate."""
    assert receipt.used_ms == view.used_ms
    paid = cost(view.rate, view.used_ms)
    assert view.released == receipt.released.atoms == paid


def assert_books_balance(world: World) -> EscrowState:
    """At the newest block, deposits less withdrawals = balances + fees + locks = the tokens that
    the escrow holds, and every account's storage is what the events add up to."""
    escrow, last = world.escrow, world.chain_client.head().number
    found = events(world, last)
    state = replay(found, escrow.params())
    deposited = sum(event.amount for event in found if isinstance(event, Deposited))
    withdrawn = sum(event.amount for event in found if isinstance(event, Withdrawn))
    held = world.token.balance_of(escrow.address, last)
    assert deposited - withdrawn == state.held() == held
    for account, atoms in state.balances.items():
        assert escrow.balance_of(account, last) == atoms
    for provider, atoms in state.fees.items():
        assert escrow.fees_of(provider, last) == atoms
    for (provider, node), milli in state.capacity.items():
        assert escrow.capacity_used(provider, node, last) == milli
    return state


def find_cast() -> Path:
    """The native cast; never npm's shim, which hides failures."""
    found = shutil.which("cast")
    if found is not None and Path(found).parent.name != ".bin":
        return Path(found)
    own = ROOT / ".setup" / "bin" / "cast"
    assert own.exists(), "no cast on PATH: run scripts/test once, or install Foundry"
    return own


def cast(*words: str) -> str:
    """What cast answers. Fails on any exit code but 0."""
    done = subprocess.run(
        [str(find_cast()), *words], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"cast {words[0]}: {done.stderr}"
    return done.stdout.strip()


def cast_number(world: World, contract: str, signature: str, *arguments: str) -> int:
    """A number that a contract's view returns, read by cast."""
    answer = cast("call", contract, signature, *arguments, "--rpc-url", world.chain.rpc_url)
    return int(answer.split()[0])
