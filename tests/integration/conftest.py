"""One Anvil with a deployed escrow per file; each test gets it back as it was deployed."""

from collections.abc import Iterator

import pytest

from tests.escrow_world import World, anvil_world


@pytest.fixture(scope="module")
def deployed() -> Iterator[World]:
    with anvil_world() as world:
        yield world


@pytest.fixture
def world(deployed: World) -> Iterator[World]:
    with deployed.chain.put_back():
        yield deployed
