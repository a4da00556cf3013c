"""Write the table of settings in docs/operating.md from the settings themselves.

Usage: python scripts/lib/settings_page.py   (from the repository's root)
"""

from __future__ import annotations

from pathlib import Path

from pydantic_core import PydanticUndefined

from marketplace.server.settings import Settings, variable_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operating.md"
BEGIN, END = "<!-- settings: written by scripts/docs -->\n", "<!-- end of settings -->\n"


def table() -> str:
    """One row per variable: name, default, meaning."""
    lines = ["| variable | default | what |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        if field.exclude:  # not an operator's to set
            continue
        default = field.default
        if default is PydanticUndefined:
            shown = "required"
        elif default in (None, (), ""):
            shown = "none"
        else:
            shown = f"`{','.join(default) if isinstance(default, tuple) else default}`"
        lines.append(f"| `{variable_of(name)}` | {shown} | {field.description} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page with its table as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
