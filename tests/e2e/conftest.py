"""Worlds of real processes; when a test fails, what its programs last said is in the report."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.world import World

STORY_S = 500.0

Story = Callable[[World], Any]


class Stories:
    """What happens in one world, all at once; a test asks for the outcome of one story."""

    def __init__(self, world: World, stories: list[Story], pool: ThreadPoolExecutor) -> None:
        self._told: dict[Story, Future[Any]] = {s: pool.submit(s, world) for s in stories}

    def outcome(self, story: Story, seconds: float = STORY_S) -> Any:
        """What a story came to; raises what it raised."""
        return self._told[story].result(seconds)

    def all(self) -> None:
        """Wait until every story is over, however it ended."""
        for future in self._told.values():
            future.exception(STORY_S)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One per module, whose tests stay on one worker (`--dist loadfile`)."""
    with World(tmp_path_factory.mktemp("world")) as made:
        yield made


@pytest.fixture(scope="module")
def stories(request: pytest.FixtureRequest, world: World) -> Iterator[Stories]:
    """The module's STORIES, begun together after what its `prepare` does, if it has one."""
    told: list[Story] = request.module.STORIES
    prepare: Story = getattr(request.module, "prepare", lambda _world: None)
    prepare(world)
    with ThreadPoolExecutor(len(told)) as pool:
        yield Stories(world, told, pool)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    world = getattr(item, "funcargs", {}).get("world")
    if report.failed and isinstance(world, World):
        report.sections.append(("programs", world.programs.tails()))
    return report
