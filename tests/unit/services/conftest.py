"""Every service test runs twice: over the store in memory and over SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.market_world import World, memory_world, sqlite_world


@pytest.fixture(params=["memory", "sqlite"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "memory":
        yield memory_world()
        return
    made = sqlite_world(tmp_path)
    yield made
    made.database.close()
