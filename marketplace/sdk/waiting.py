"""Sleeping, blocking work and patience, for either client: `_sync` calls the plain functions."""

import asyncio
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from marketplace.sdk.errors import (
    ChainUnavailable,
    CoulombError,
    RateLimited,
    TransportError,
    Unavailable,
)

P = ParamSpec("P")
T = TypeVar("T")
PASSING = (TransportError, Unavailable, RateLimited, ChainUnavailable)
"""Failures that pass by themselves."""
PATIENCE_SECONDS = 120.0
sleep = time.sleep
async_sleep = asyncio.sleep


def run(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do work that blocks: disk, SQLite, a key's derivation, the chain."""
    return work(*args, **kwargs)


async_run = asyncio.to_thread


class Patience:
    """How long failures that pass by themselves are borne."""

    def __init__(self) -> None:
        self._since: float | None = None

    def recovered(self) -> None:
        """The last try worked."""
        self._since = None

    def failed(self, error: CoulombError) -> None:
        """One more failure; raises it when they have lasted too long."""
        now = time.monotonic()
        self._since = self._since if self._since is not None else now
        if now - self._since > PATIENCE_SECONDS:
            raise error
