"""The HTTP application over SQLite and a fake chain, without a socket."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.api_client import Api
from tests.market_world import new_world


@contextmanager
def opened() -> Iterator[Api]:
    """A client of a fresh market."""
    with new_world() as world, asyncio.Runner() as runner:
        made = Api(world, runner)
        yield made
        made.close()


@pytest.fixture
def api() -> Iterator[Api]:
    with opened() as made:
        yield made


@pytest.fixture(scope="module")
def still_api() -> Iterator[Api]:
    """One market for all tests of a module that change nothing in it."""
    with opened() as made:
        yield made
