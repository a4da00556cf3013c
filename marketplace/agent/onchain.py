"""Leases on the agent's own node of the chain, so that it need not take the market's word."""

import time
from collections.abc import Callable
from contextlib import suppress

from marketplace.agent.errors import NotOurs, NotShown
from marketplace.agent.journal import LeaseEntry
from settlement.errors import ChainError
from settlement.leases import LeaseStatus, LeaseView, Shows, unlike
from settlement.orders import OpenedFrom

LOOK_S = 30.0
"""The longest that a stop or a top-up which the market keeps to itself goes unnoticed."""
_OVER = (LeaseStatus.STOPPED, LeaseStatus.CLOSED)


def first_look(shows: Shows, lease_id: str, opened: OpenedFrom) -> LeaseView:
    """A lease that is about to be taken up, as the chain shows it.

    Raises NotShown, which may pass, and NotOurs if it is not what its orders say.
    """
    ask, bid = opened.ask, opened.bid
    try:
        view = shows(bid.buyer, ask.provider, bid.witness, opened.lease_no)
    except ChainError as error:
        raise NotShown(f"{lease_id}: {error}") from error
    if view.status is not LeaseStatus.ACTIVE:
        state = view.status.name.lower()
        raise NotShown(f"{lease_id}: the market calls it active, the chain's node says {state}")
    found = unlike(view, opened)
    if found is not None:
        raise NotOurs(f"{lease_id}: it is not on chain as its orders say: {found}")
    return view


class ChainLook:
    """One lease that is in hand. It is looked up every LOOK_S, and whenever the market states
    another paid time than the chain last showed."""

    def __init__(
        self,
        shows: Shows,
        entry: LeaseEntry,
        seen: LeaseView | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`seen`: what a look just now has shown, if there was one."""
        self._shows = shows
        self._names = (entry.buyer, entry.provider, entry.witness, entry.lease_no)
        self._clock_s = clock_s
        self._seen = seen
        self._seen_s = clock_s()

    @property
    def over(self) -> LeaseStatus | None:
        """How the lease is over, if the chain shows that."""
        return self._seen.status if self._seen and self._seen.status in _OVER else None

    def paid_seconds(self, stated: int) -> int:
        """The most time that is paid; nothing until the chain has shown it."""
        now = self._clock_s()
        seen = self._seen
        if seen is None or seen.paid_seconds != stated or now - self._seen_s >= LOOK_S:
            with suppress(ChainError):  # what was seen last counts until the node answers again
                found = self._shows(*self._names)
                if found.status is not LeaseStatus.NONE:
                    self._seen, self._seen_s = found, now
        return self._seen.paid_seconds if self._seen else 0
