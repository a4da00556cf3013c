"""One word, one meaning: a class name stands for one class in both packages, but for a few.

docs/glossary.md fixes the words.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED = "marketplace/sdk/_sync"
# The SDK's exceptions bear the names of the server's errors that they stand for.
SDK_ERRORS = "marketplace/sdk/errors.py"


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
