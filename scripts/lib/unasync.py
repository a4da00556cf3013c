"""Writes marketplace/sdk/_sync from marketplace/sdk/_async. Usage: python scripts/lib/unasync.py

The build (`hatch_build.py`) and every set-up script run it. It takes milliseconds and touches only
files whose text changed. PyPI's unasync reads tokens only: it would leave docstrings as they are.
"""

import os
import re
from pathlib import Path

SDK = Path(__file__).resolve().parents[2] / "marketplace" / "sdk"
HEADER = "# Written by scripts/lib/unasync.py. Change the file of this name in _async instead.\n"
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


def written() -> dict[str, str]:
    """The text of each module of `_sync`, by file name."""
    found = {}
    for path in sorted((SDK / "_async").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        for pattern, replacement in RULES:
            text = pattern.sub(replacement, text)
        found[path.name] = HEADER + text
    return found


def write(folder: Path = SDK / "_sync") -> None:
    """Bring the folder up to date. Each file is replaced at once: others may be importing it."""
    modules = written()
    folder.mkdir(exist_ok=True)
    for stale in {path.name for path in folder.glob("*.py")} - modules.keys():
        (folder / stale).unlink()
    for name, text in modules.items():
        place, fresh = folder / name, folder / f".{name}.{os.getpid()}"
        if not place.is_file() or place.read_text(encoding="utf-8") != text:
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(place)


if __name__ == "__main__":
    write()
