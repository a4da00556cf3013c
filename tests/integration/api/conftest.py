"""The HTTP application over SQLite and a fake chain, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api_client import Api
from tests.market_world import key_of, sqlite_world


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    world = sqlite_world(tmp_path, arbiter=key_of("arbiter").address)
    with asyncio.Runner() as runner:
        made = Api(world, runner)
        yield made
        made.close()
    world.database.close()
