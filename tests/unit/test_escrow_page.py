"""What docs/escrow.md promises is shown by tests, which it names where it promises.

A sentence with "must" or "never", and every row of "Who can do what to whom", ends with a comment

    <!-- shown by settle.t.sol::test_… tests/integration/test_….py::test_… -->

of tests of Forge (below contracts/test) or pytest.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "escrow.md"
WHO = "## Who can do what to whom"
COMMENT = re.compile(r"<!-- shown by (.+?) -->")
PROMISE = re.compile(r"\b(must|never)\b", re.IGNORECASE)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> Iterator[str]:
    """Paragraphs, items of lists and rows of tables, each on one line."""
    text = FENCED.sub("", text)
    text = re.sub(r"\n(?=[-|#])", "\n\n", text)
    yield from (" ".join(block.split()) for block in re.split(r"\n\s*\n", text) if block.strip())


def orphans(block: str, is_row: bool) -> list[str]:
    """Sentences that promise something and name no test."""
    *shown, rest = COMMENT.split(block)[::2]
    found = [s for part in shown for s in _sentences(part)[:-1] if PROMISE.search(s)]
    found += [s for s in _sentences(rest) if PROMISE.search(s)]
    return found + ([block] if is_row and not shown else [])


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", text.strip())


def exists(name: str) -> bool:
    """Whether a named test is there."""
    file, _, test = name.partition("::")
    path = ROOT / (file if file.endswith(".py") else f"contracts/test/{file}")
    start = rf"^\s*def {test}\(" if file.endswith(".py") else rf"^\s*function {test}\("
    return path.is_file() and re.search(start, path.read_text(), re.MULTILINE) is not None


def test_every_must_and_never_of_the_escrows_page_names_the_tests_that_show_it() -> None:
    text = PAGE.read_text()
    assert [s for block in blocks(text) for s in orphans(block, is_row=False)] == []


def test_every_row_of_who_can_do_what_names_the_tests_that_show_it() -> None:
    section = PAGE.read_text().partition(WHO)[2].partition("\n## ")[0]
    rows = [block for block in blocks(section) if block.startswith("| ")]
    assert len(rows) > 10
    assert [s for row in rows[1:] if "---" not in row for s in orphans(row, is_row=True)] == []


def test_every_test_that_the_escrows_page_names_is_there() -> None:
    named = {name for comment in COMMENT.findall(PAGE.read_text()) for name in comment.split()}
    assert len(named) > 20
    assert [name for name in sorted(named) if not exists(name)] == []


@pytest.mark.parametrize(
    ("block", "is_row", "count"),
    [
        ("It never pays.", False, 1),
        ("It never pays. <!-- shown by a.t.sol::test_a -->", False, 0),
        ("It never pays. It stops. <!-- shown by a.t.sol::test_a -->", False, 1),
        ("It stops. <!-- shown by a.t.sol::test_a --> You must not.", False, 1),
        ("It pays.", False, 0),
        ("| provider | stop | nothing |", True, 1),
        ("| provider | stop | nothing <!-- shown by a.t.sol::test_a --> |", True, 0),
    ],
)
def test_a_promise_without_a_test_is_seen(block: str, is_row: bool, count: int) -> None:
    assert len(orphans(block, is_row)) == count


@pytest.mark.parametrize(
    "name",
    [
        "tests/unit/test_escrow_page.py::test_gone", "tests/unit/gone.py::test_gone",
        "ComputeEscrow/stop.t.sol::test_gone", "gone.t.sol::test_gone",
        "ComputeEscrow/stop.t.sol::test",
    ],
)  # fmt: skip
def test_a_test_that_is_not_there_is_seen(name: str) -> None:
    assert not exists(name)
    assert exists("tests/unit/test_escrow_page.py::test_a_test_that_is_not_there_is_seen")
    assert exists("ComputeEscrow/stop.t.sol::test_buyer_provider_and_witness_stop_as_senders")
