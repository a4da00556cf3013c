"""Every service test has a market of its own, over SQLite."""

from collections.abc import Iterator

import pytest

from tests.market_world import World, new_world


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as made:
        yield made
