"""Sleeping and blocking work, for either client: `_sync` calls the plain functions."""

import asyncio
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from marketplace.sdk.errors import ChainUnavailable, RateLimited, TransportError, Unavailable

P = ParamSpec("P")
T = TypeVar("T")
PASSING = (TransportError, Unavailable, RateLimited, ChainUnavailable)
"""Failures that pass by themselves."""
sleep = time.sleep
async_sleep = asyncio.sleep


def run(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do work that blocks: disk, SQLite, a key's derivation, the chain."""
    return work(*args, **kwargs)


async_run = asyncio.to_thread
