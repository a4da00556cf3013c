"""The life of a lease as the market sees it: two states off chain, the rest mirror the escrow."""

from __future__ import annotations

from enum import StrEnum

from marketplace.errors import IllegalTransition


class LeaseState(StrEnum):
    """`opening` and `failed_to_open` exist off chain only. Source: `ComputeEscrow` states."""

    OPENING = "opening"
    ACTIVE = "active"
    STOPPED = "stopped"
    CLAIMED = "claimed"
    CONTESTED = "contested"
    CLOSED = "closed"
    FAILED_TO_OPEN = "failed_to_open"


LEASE_STEPS: dict[LeaseState, frozenset[LeaseState]] = {
    LeaseState.OPENING: frozenset({LeaseState.ACTIVE, LeaseState.FAILED_TO_OPEN}),
    LeaseState.ACTIVE: frozenset({LeaseState.STOPPED, LeaseState.CLAIMED, LeaseState.CLOSED}),
    LeaseState.STOPPED: frozenset({LeaseState.CLAIMED, LeaseState.CLOSED}),
    LeaseState.CLAIMED: frozenset({LeaseState.CONTESTED, LeaseState.CLOSED}),
    LeaseState.CONTESTED: frozenset({LeaseState.CLOSED}),
    LeaseState.CLOSED: frozenset(),
    LeaseState.FAILED_TO_OPEN: frozenset(),
}


def is_over(state: LeaseState) -> bool:
    """Whether no money can move in this lease any more."""
    return not LEASE_STEPS[state]


def holds_capacity(state: LeaseState) -> bool:
    """Whether the node's capacity is still reserved; only closing, or never opening, frees it."""
    return not is_over(state)


def step(state: LeaseState, to: LeaseState) -> LeaseState:
    """The next state, or IllegalTransition."""
    if to not in LEASE_STEPS[state]:
        raise IllegalTransition(f"a lease that is {state} cannot become {to}")
    return to
