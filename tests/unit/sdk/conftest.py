"""A real market in this process for the clients to talk to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sdk_app import Served, served


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "market") as opened:
        yield opened
