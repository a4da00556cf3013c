"""The tree drawn in the errors module is the tree in the code."""

import re
import subprocess
import sys
from pathlib import Path

import marketplace.errors as errors
from marketplace.agent.errors import SERVER_AWAY
from marketplace.errors import ERRORS, InvalidInput, MarketError, Problem
from marketplace.sdk.errors import error_of, problem_of

ROOT = Path(__file__).resolve().parents[2]


def subtree(kind: type[MarketError], depth: int = 0) -> list[tuple[int, str, str]]:
    rows = [(depth, kind.__name__, kind.code)]
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            rows += subtree(child, depth + 1)
    return rows


def drawn() -> list[tuple[int, str, str]]:
    rows = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([│├└─ ]*)([A-Z]\w+)\s{2,}([a-z_]+)(\s|$)", line)
        if match:
            rows.append((len(match.group(1)) // 4, match.group(2), match.group(3)))
    return rows


def test_docstring_draws_every_error_with_its_code_in_place() -> None:
    assert drawn() == subtree(MarketError)


def test_codes_are_unique() -> None:
    codes = [code for _, _, code in subtree(MarketError)]
    assert len(set(codes)) == len(codes)


def test_invalid_input_lists_every_problem() -> None:
    error = InvalidInput([Problem("/a", "is wrong"), Problem("", "is worse")])
    assert str(error) == "/a: is wrong; /: is worse"
    assert [p.pointer for p in error.problems] == ["/a", ""]


def test_every_error_has_its_row_in_the_table() -> None:
    assert {code for _, _, code in subtree(MarketError)} <= set(ERRORS)
    for kind in ERRORS.values():
        for text in (kind.title, kind.meaning, kind.fix):
            assert text[0].isupper() or text[0] == "`", kind.code
        assert kind.meaning.endswith("."), kind.code
        assert 400 <= kind.status < 600


def test_the_page_of_errors_is_what_the_table_says() -> None:
    script = ROOT / "scripts/lib/errors_page.py"
    shown = subprocess.run(
        [sys.executable, script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert (ROOT / "docs/errors.md").read_text() == shown.stdout, f"run {script} > docs/errors.md"


def test_an_agent_sends_again_whatever_may_succeed_later() -> None:
    for code, kind in ERRORS.items():
        refusal = error_of(problem_of(kind.status, {"code": code, "status": kind.status}))
        assert isinstance(refusal, SERVER_AWAY) or not kind.retryable, code
