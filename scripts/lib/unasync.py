"""Writes marketplace/sdk/_sync from marketplace/sdk/_async. Usage: python scripts/lib/unasync.py

Run it by hand after a change of `_async` and commit what it writes; a test compares the two. PyPI's
unasync reads tokens only: it leaves docstrings as they are and wants a list of every class.
"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

SDK = Path(__file__).resolve().parents[2] / "marketplace" / "sdk"
HEADER = (
    "# Written by scripts/lib/unasync.py from the file of this name in _async: change that one.\n"
)
RULES = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"\bAsyncByteStream\b", "SyncByteStream"),
        (r"\basync (?=def|for|with)", ""),
        (r"\bawait ", ""),
        (r"\b[Aa]n async(hronous)? ", "a "),
        (r"\basynchronous ", ""),
        (r"\basync_(?=[a-z])", ""),
        (r"\b_async\b", "_sync"),
        (r"\bAsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]"),
        (r"\bAsync(?=[A-Z])", ""),
        (r"\b__a(?=(enter|exit|iter)__)", "__"),
        (r"\ba(?=(close|closing|read|iter_bytes|iter_sse)\b)", ""),
    )
)


@cache
def written() -> dict[str, str]:
    """The text of each module of `_sync`, by its name."""
    found = {}
    for path in sorted((SDK / "_async").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        for pattern, replacement in RULES:
            text = pattern.sub(replacement, text)
        found[path.name] = HEADER + _formatted(text, SDK / "_sync" / path.name)
    return found


def _formatted(text: str, path: Path) -> str:
    """Names are shorter now, and loops that only yield are one word: sorted and wrapped again."""
    fix = ["check", "--select", "I,UP028", "--fix-only", "--unsafe-fixes"]
    for command in (fix, ["format"]):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--quiet", "--stdin-filename", path, "-"],
            input=text, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    return text


if __name__ == "__main__":
    modules = written()
    for stale in set((SDK / "_sync").glob("*.py")) - {SDK / "_sync" / name for name in modules}:
        stale.unlink()
    for name, text in modules.items():
        (SDK / "_sync" / name).write_text(text, encoding="utf-8")
