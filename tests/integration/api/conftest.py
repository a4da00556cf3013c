"""The HTTP application over SQLite and a fake chain, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.api_client import Api
from tests.market_world import sqlite_world


@contextmanager
def opened(folder: Path) -> Iterator[Api]:
    """A client of a fresh market."""
    world = sqlite_world(folder)
    with asyncio.Runner() as runner:
        made = Api(world, runner)
        yield made
        made.close()
    world.database.close()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with opened(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def still_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One market for all tests of a module that change nothing in it."""
    with opened(tmp_path_factory.mktemp("still")) as made:
        yield made
