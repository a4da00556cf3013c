"""Every service test has a market of its own, over SQLite."""

from collections.abc import Iterator

import pytest

from tests.market_world import World, new_world


@pytest.fixture
def world() -> Iterator[World]:
    with new_world() as made:
        yield made


def ten_seconds(world: World, lease_id: str) -> None:
    """A job is ready and runs for ten seconds, all of it countersigned."""
    world.use(lease_id, 0, 0)
    world.use(lease_id, 1, 10_000, after=10)


def watch(world: World, after: float = 0) -> None:
    """What the market's loops see after so many seconds."""
    world.clock.advance(after)
    world.catalog.settling.failed_opens()
    world.catalog.watchdog.tick()
    world.catalog.watchdog.give_up_retries()


def settle(world: World, after: float = 0) -> None:
    """What the market sends to the chain after so many seconds, and the chain takes."""
    if after:
        world.clock.advance(after)
        world.chain.mine()
    world.catalog.settling.settle()
    world.catalog.settling.free_ended()
    world.catalog.settling.refund()
    world.chain.mine()


@pytest.fixture
def lease_id(world: World) -> str:
    """The lease of a job that has been running for ten seconds, all of it countersigned."""
    _, made = world.start()
    ten_seconds(world, made)
    return made


@pytest.fixture
def job_id(world: World, lease_id: str) -> str:
    return world.lease(lease_id).job_id
