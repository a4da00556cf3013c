"""House rules a machine can hold: short functions and files, no broad excepts, no loose ends.

A function over 70 lines does more than one thing; a file over 500 hides its parts; a broad except
swallows the error a person needed to see.
"""

import ast
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500
LOOSE_ENDS = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "raise NotImplemented" + "Error")))


def tracked(*suffixes: str) -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [ROOT / line for line in listing.stdout.splitlines()]
    return [path for path in paths if path.suffix in suffixes and path.is_file()]


def python_files() -> list[Path]:
    return [p for p in tracked(".py") if p.relative_to(ROOT).parts[0] != "docs"]


def is_broad(handler: ast.ExceptHandler) -> bool:
    name = handler.type.id if isinstance(handler.type, ast.Name) else None
    return handler.type is None or name in {"Exception", "BaseException"}


def set_twice(module: ast.Module) -> list[str]:
    """Constants that a module sets again, as when two branches that add one are merged."""
    assigned = [node for node in module.body if isinstance(node, ast.Assign)]
    names = [t.id for node in assigned for t in node.targets if isinstance(t, ast.Name)]
    return [name for name, times in Counter(names).items() if times > 1 and name.isupper()]


def findings(path: Path, source: str) -> list[str]:
    where = path.name
    lines = source.count("\n")
    found = [f"{where}: {lines} lines"] if lines > FILE_LINES_MAX else []
    module = ast.parse(source)
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                found.append(f"{where}:{node.lineno}: {node.name} has {length} lines")
        if isinstance(node, ast.ExceptHandler) and is_broad(node):
            found.append(f"{where}:{node.lineno}: broad except")
    found += [f"{where}: {name} is set twice" for name in set_twice(module)]
    found += [f"{where}: {match}" for match in LOOSE_ENDS.findall(source)]
    return found


def test_python_files_keep_the_house_rules() -> None:
    paths = python_files()
    assert len(paths) > 10
    assert [f for path in paths for f in findings(path, path.read_text())] == []


def test_solidity_files_stay_below_700_lines() -> None:
    paths = tracked(".sol")
    assert paths
    assert [p.name for p in paths if p.read_text().count("\n") > 700] == []


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        ("def f():\n" + "    x = 1\n" * 70, "f has 71 lines"),
        ("x = 1\n" * 501, "501 lines"),
        ("try:\n    pass\nexcept Exception:\n    pass\n", "broad except"),
        ("A = 1\nA = 2\n", "A is set twice"),
        ("# TO" + "DO later\n", "TO" + "DO"),
    ],
)
def test_a_planted_breach_is_found(planted: str, expected: str) -> None:
    assert any(expected in finding for finding in findings(Path("planted.py"), planted))
