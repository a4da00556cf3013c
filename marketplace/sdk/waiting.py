"""Sleeping and blocking work, for either client: the generated modules call the plain ones."""

import asyncio
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


async def async_sleep(seconds: float) -> None:
    """Wait, and let others run."""
    await asyncio.sleep(seconds)


def run(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do work that blocks: disk, SQLite, a key's derivation, the chain."""
    return work(*args, **kwargs)


async def async_run(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do work that blocks in a thread."""
    return await asyncio.to_thread(work, *args, **kwargs)
