"""Bugs that people make, put into the escrow one at a time: the Solidity tests notice each."""

from dataclasses import replace
from pathlib import Path

import pytest

from scripts.mutate_lib.lanes import Lane, Stage, make_lanes
from scripts.mutate_lib.planted import Bug, read_bugs
from scripts.mutate_lib.schema import Schema, build
from scripts.mutate_lib.syntax import MutateError, read_sources

BUGS = read_bugs()

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def schema() -> Schema:
    """All the bugs in one program: one that does not fit the sources any more fails every test."""
    sources = read_sources()
    made = build(sources, [bug.mutant(sources) for bug in BUGS])
    assert not made.refused
    return made


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Lane:
    return make_lanes(1, tmp_path_factory.mktemp("planted"))[0]


def failing(lane: Lane, schema: Schema, number: int, *bugs: Bug) -> list[str]:
    """Which of the tests that must notice these bugs fail."""
    lane.put(schema, number)
    paths = tuple(sorted({bug.tests_path for bug in bugs}))
    return lane.failing(Stage(paths, tests=tuple(bug.by for bug in bugs)), fail_fast=False)


def test_without_a_bug_the_tests_pass(lane: Lane, schema: Schema) -> None:
    assert failing(lane, schema, 0, *BUGS) == []


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_planted_bug_fails_a_test(bug: Bug, lane: Lane, schema: Schema) -> None:
    number = schema.numbers[bug.mutant(read_sources())]
    assert failing(lane, schema, number, bug) == [bug.by]


def test_bug_that_does_not_fit_the_sources_is_refused() -> None:
    sources = read_sources()
    for old in ("", "no such text", "uint256"):
        with pytest.raises(MutateError, match="times"):
            replace(BUGS[0], old=old).mutant(sources)


def test_planted_bugs_are_at_least_ten_in_every_part(tmp_path: Path) -> None:
    files = {Path(bug.file).stem for bug in BUGS}
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 10
    assert files >= {"Settling", "Ending", "Opening", "Funds", "Amending"}
