"""Compares the chain, the store of events and the running jobs.

This finds what a missed event would otherwise leave behind forever: a busy node or locked money.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from settlement.chain.calls import LeaseRef
from settlement.chain.contracts import Escrow, Token
from settlement.leases import ChainLease, EscrowState, LeaseStatus, LeaseView, Params, replay
from settlement.ports import OVER, EventStore, Intent


class FindingKind(StrEnum):
    """What is wrong."""

    LEASE_DIFFERS = "lease_differs"
    BALANCE_DIFFERS = "balance_differs"
    CAPACITY_DIFFERS = "capacity_differs"
    HOLDINGS_SHORT = "holdings_short"
    RUNNING_WITHOUT_LEASE = "running_without_lease"
    LEASE_WITHOUT_JOB = "lease_without_job"
    REFUND_DUE = "refund_due"
    INTENT_STUCK = "intent_stuck"


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference. `subject` is a lease number, an account or an intent's key."""

    kind: FindingKind
    subject: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What a comparison found at one block, and how much it compared."""

    block_number: int
    leases: int
    accounts: int
    findings: tuple[Finding, ...]


def reconcile(
    store: EventStore, escrow: Escrow, token: Token, running: Iterable[bytes], decimals: int = 18
) -> Reconciliation:
    """Compare at the newest stored block. `running` holds the leases that a job runs on now.

    Every amount must be equal to the atom. Raises ChainError if the node does not answer.
    """
    cursor = store.cursor()
    if cursor is None:
        return Reconciliation(-1, 0, 0, ())
    at = cursor.number
    params = escrow.params(decimals)
    state = replay((logged.event for logged in store.events()), params)
    findings = [
        *_chain_findings(state, escrow, token, at),
        *_running_findings(state, set(running), cursor.timestamp),
        *_refund_findings(state, escrow.config().settle_window, cursor.timestamp),
    ]
    return Reconciliation(at, len(state.leases), len(state.balances), tuple(findings))


def stuck_intents(intents: Iterable[Intent], now: datetime, older_than: timedelta) -> list[Finding]:
    """The intents that are neither final nor dead after `older_than`."""
    wanted = f"final within {older_than.total_seconds():.0f} s"
    found = []
    for intent in intents:
        age = now - intent.created_at
        if intent.state not in OVER and age > older_than:
            why = f": {intent.error}" if intent.error else ""
            seen = f"{intent.state} after {age.total_seconds():.0f} s{why}"
            found.append(Finding(FindingKind.INTENT_STUCK, intent.key, wanted, seen))
    return found


def _chain_findings(state: EscrowState, escrow: Escrow, token: Token, at: int) -> Iterator[Finding]:
    compared: list[tuple[FindingKind, str, object, object]] = []
    for lease in state.leases.values():
        expected = expected_view(lease, state.params)
        found = escrow.lease(ref_of(lease), at)
        compared.append((FindingKind.LEASE_DIFFERS, _number(lease.lease_no), expected, found))
    for account, amount in state.balances.items():
        balance = escrow.balance_of(account, at)
        compared.append((FindingKind.BALANCE_DIFFERS, account, amount, balance))
    for provider, amount in state.fees.items():
        fees = escrow.fees_of(provider, at)
        compared.append((FindingKind.BALANCE_DIFFERS, f"fees of {provider}", amount, fees))
    for (provider, node), milli in state.capacity.items():
        used = escrow.capacity_used(provider, node, at)
        compared.append((FindingKind.CAPACITY_DIFFERS, f"{provider}/{node}", milli, used))
    for kind, subject, one, other in compared:
        if one != other:
            yield Finding(kind, subject, str(one), str(other))
    held = token.balance_of(escrow.address, at)
    due = state.held()
    if held < due:
        yield Finding(FindingKind.HOLDINGS_SHORT, escrow.address, f"at least {due}", str(held))


def _running_findings(state: EscrowState, running: set[bytes], now: int) -> Iterator[Finding]:
    leases = state.leases
    live = {n for n, at in leases.items() if at.status is LeaseStatus.ACTIVE and now < at.end}
    for number in sorted(running - live):
        lease = leases.get(number)
        found = "no lease" if lease is None else f"{lease.status.name.lower()}, end {lease.end}"
        yield Finding(FindingKind.RUNNING_WITHOUT_LEASE, _number(number), "an active lease", found)
    for number in sorted(live - running):
        yield Finding(FindingKind.LEASE_WITHOUT_JOB, _number(number), "a running job", "none")


def _refund_findings(state: EscrowState, settle_window: int, now: int) -> Iterator[Finding]:
    for lease in state.leases.values():
        due = lease.end + settle_window
        if lease.is_open and now > due:
            found = f"{lease.locked(state.params)} atoms still locked at {now}"
            number = _number(lease.lease_no)
            yield Finding(FindingKind.REFUND_DUE, number, f"closed after {due}", found)


def expected_view(lease: ChainLease, params: Params) -> LeaseView:
    """What the contract must report for a folded lease."""
    time = (lease.used_ms, lease.start, lease.end, lease.funded, lease.start_seconds)
    amounts = (lease.released(params), lease.locked(params))
    place = (lease.gpu_milli, lease.node)
    kind = (lease.status, lease.metered, lease.again)
    return LeaseView(*kind, lease.rate, *time, *place, *amounts)


def ref_of(lease: ChainLease) -> LeaseRef:
    """What the escrow finds a folded lease by."""
    return LeaseRef(lease.buyer, lease.provider, lease.witness, lease.lease_no)


def _number(lease_no: bytes) -> str:
    return "0x" + lease_no.hex()
