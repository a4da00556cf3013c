"""Compares the chain, the store of events and the running jobs.

This finds what a missed event would otherwise leave behind forever: a busy node or locked money.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from settlement.chain.calls import LeaseRef
from settlement.chain.contracts import Escrow, LeaseView, Token
from settlement.leases import ChainLease, EscrowState, LeaseStatus, Params, replay
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
    at, params = cursor.number, escrow.params(decimals)
    state = replay((logged.event for logged in store.events()), params)
    findings = [
        *_chain_findings(state, escrow, token, at),
        *_running_findings(state, set(running), cursor.timestamp),
        *_refund_findings(state, escrow.config().settle_window, cursor.timestamp),
    ]
    return Reconciliation(at, len(state.leases), len(state.balances), tuple(findings))


def stuck_intents(intents: Iterable[Intent], now: datetime, older_than: timedelta) -> list[Finding]:
    """The intents that are neither final nor dead after `older_than`."""
    return [
        Finding(
            FindingKind.INTENT_STUCK,
            intent.key,
            f"final within {older_than.total_seconds():.0f} s",
            f"{intent.state} after {(now - intent.created_at).total_seconds():.0f} s"
            + (f": {intent.error}" if intent.error else ""),
        )
        for intent in intents
        if intent.state not in OVER and now - intent.created_at > older_than
    ]


def _chain_findings(state: EscrowState, escrow: Escrow, token: Token, at: int) -> Iterator[Finding]:
    for lease in state.leases.values():
        expected, found = expected_view(lease, state.params), escrow.lease(ref_of(lease), at)
        yield from _differs(FindingKind.LEASE_DIFFERS, _number(lease.lease_no), expected, found)
    for account, amount in state.balances.items():
        balance = escrow.balance_of(account, at)
        yield from _differs(FindingKind.BALANCE_DIFFERS, account, amount, balance)
    for provider, amount in state.fees.items():
        fees = escrow.fees_of(provider, at)
        yield from _differs(FindingKind.BALANCE_DIFFERS, f"fees of {provider}", amount, fees)
    for (provider, node), milli in state.capacity.items():
        used = escrow.capacity_used(provider, node, at)
        yield from _differs(FindingKind.CAPACITY_DIFFERS, f"{provider}/{node}", milli, used)
    held = token.balance_of(escrow.address, at)
    if held < state.held():
        yield Finding(
            FindingKind.HOLDINGS_SHORT, escrow.address, f"at least {state.held()}", str(held)
        )


def _running_findings(state: EscrowState, running: set[bytes], now: int) -> Iterator[Finding]:
    live = {n for n, lease in state.leases.items() if _is_live(lease, now)}
    for number in sorted(running - live):
        lease = state.leases.get(number)
        found = "no lease" if lease is None else f"{lease.status.name.lower()}, end {lease.end}"
        yield Finding(FindingKind.RUNNING_WITHOUT_LEASE, _number(number), "an active lease", found)
    for number in sorted(live - running):
        yield Finding(FindingKind.LEASE_WITHOUT_JOB, _number(number), "a running job", "none")


def _refund_findings(state: EscrowState, settle_window: int, now: int) -> Iterator[Finding]:
    for lease in state.leases.values():
        due = lease.end + settle_window
        if lease.is_open and now > due:
            yield Finding(
                FindingKind.REFUND_DUE,
                _number(lease.lease_no),
                f"closed after {due}",
                f"{lease.locked(state.params)} atoms still locked at {now}",
            )


def expected_view(lease: ChainLease, params: Params) -> LeaseView:
    """What the contract must report for a folded lease."""
    return LeaseView(
        status=lease.status,
        metered=lease.metered,
        rate=lease.rate,
        used_ms=lease.used_ms,
        start=lease.start,
        end=lease.end,
        funded=lease.funded,
        gpu_milli=lease.gpu_milli,
        node=lease.node,
        released=lease.released(params),
        locked=lease.locked(params),
    )


def ref_of(lease: ChainLease) -> LeaseRef:
    """What the escrow finds a folded lease by."""
    return LeaseRef(lease.buyer, lease.provider, lease.witness, lease.lease_no)


def _is_live(lease: ChainLease, now: int) -> bool:
    return lease.status is LeaseStatus.ACTIVE and now < lease.end


def _differs(kind: FindingKind, subject: str, expected: object, found: object) -> Iterator[Finding]:
    if expected != found:
        yield Finding(kind, subject, str(expected), str(found))


def _number(lease_no: bytes) -> str:
    return "0x" + lease_no.hex()
