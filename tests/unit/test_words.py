"""One word, one meaning: a class name stands for one class in both packages, but for a few.

docs/glossary.md fixes the words.
"""

import ast
import importlib.util
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED = "marketplace/sdk/_sync"
# The SDK's exceptions bear the names of the server's errors that they stand for.
SDK_ERRORS = "marketplace/sdk/errors.py"


@cache
def classes() -> dict[str, list[str]]:
    """Where each public class name is defined."""
    found: dict[str, list[str]] = defaultdict(list)
    for package in ("marketplace", "settlement"):
        for path in sorted((ROOT / package).rglob("*.py")):
            place = path.relative_to(ROOT).as_posix()
            if place.startswith(GENERATED):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found[node.name].append(place)
    return found


def test_class_names_are_unique_across_packages() -> None:
    shared = {
        name: places
        for name, places in classes().items()
        if len([place for place in places if place != SDK_ERRORS]) > 1
    }
    assert shared == {}


@pytest.mark.parametrize("word", ["Offer", "Deal", "Agreement", "Invoice", "Claim", "Arbiter"])
def test_words_that_are_not_used_name_no_class(word: str) -> None:
    assert [name for name in classes() if word in name] == []


def test_ask_bid_job_and_lease_have_at_most_eight_shapes_each_and_all_are_listed() -> None:
    spec = importlib.util.spec_from_file_location("shapes", ROOT / "scripts/lib/shapes_page.py")
    assert spec is not None
    assert spec.loader is not None
    shapes = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shapes)
    assert shapes.undeclared() == []
    assert {thing: len(found) for thing, found in shapes.SHAPES.items() if len(found) > 8} == {}
    names = {name for name, _, _ in shapes.classes()}
    listed = {name for found in shapes.SHAPES.values() for name in found if "(" not in name}
    assert (listed | shapes.OTHERS) - names == set(), "classes that are gone"
    page = (ROOT / "docs/shapes.md").read_text(encoding="utf-8")
    assert page == shapes.page(), "run scripts/docs"
