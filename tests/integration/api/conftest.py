"""The HTTP application over SQLite and a fake chain, without a socket."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from marketplace.api.limits import Limits
from tests.api_client import MANY, Api
from tests.market_world import new_world


@contextmanager
def open_market(limits: Limits = MANY) -> Iterator[Api]:
    """A client of a fresh market."""
    with new_world() as world, asyncio.Runner() as runner:
        made = Api(world, runner, limits)
        yield made
        made.close()


@pytest.fixture
def opened() -> Callable[[Limits], AbstractContextManager[Api]]:
    return open_market


@pytest.fixture
def api() -> Iterator[Api]:
    with open_market() as made:
        yield made


@pytest.fixture(scope="module")
def still_api() -> Iterator[Api]:
    """One market for all tests of a module that change nothing in it."""
    with open_market() as made:
        yield made
