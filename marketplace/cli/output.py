"""Data on stdout in the format asked for; everything for people on stderr."""

import csv
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, TextIO

import typer

from marketplace.cli import Format
from marketplace.cli.context import current

Columns = Sequence[tuple[str, str]]
"""A table's columns: the header, and where the value is (`a.b` reaches into `a`; `a?b` is empty
unless `b` says something)."""


def columns(*specs: str) -> Columns:
    """Columns from `path` or `header=path`."""
    parts = (spec.partition("=") for spec in specs)
    return tuple(
        (head, path) if path else (head.replace("_", " "), head) for head, _, path in parts
    )


def plain(value: Any) -> Any:
    """Any value as JSON carries it: the API's own form, if it has one."""
    for name in ("to_json", "to_message"):  # what travels, and what is signed, know their own form
        if hasattr(value, name):
            return getattr(value, name)()
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    match value:
        case Mapping():
            return {str(k): plain(v) for k, v in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case bytes():
            return "0x" + value.hex()
        case Decimal():
            return f"{value:f}"
        case Enum():
            return value.value
    return str(value) if isinstance(value, Path) else value


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON on any stream: what UTF-8 cannot carry, as in names of files, is escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text.encode(errors="backslashreplace").decode()


def show_rows(rows: Iterable[Any], table: Columns) -> None:
    """Write a list. `jsonl` writes each row as it comes."""
    output = current().output
    if output is Format.JSONL:
        stream_rows(rows, table)
    elif output is Format.CSV:
        stream_rows(list(rows), table)
    elif output is Format.JSON:
        print(as_json([plain(row) for row in rows], indent=2))
    else:
        _print_table([plain(row) for row in rows], table)


def stream_rows(rows: Iterable[Any], table: Columns) -> None:
    """Write rows as they come, however long that takes; a table is one plain line per row."""
    output = current().output
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if output is Format.CSV:
        writer.writerow([header for header, _ in table])
        sys.stdout.flush()
    for row in rows:
        document = plain(row)
        cells = [(header, cell(document, path)) for header, path in table]
        if output is Format.TABLE:
            print("  ".join(f"{header}={text}" for header, text in cells if text))
        elif output is Format.CSV:
            writer.writerow([text for _, text in cells])
        else:
            print(as_json(document))
        sys.stdout.flush()


def show(value: Any, table: Columns) -> None:
    """Write one object: a table shows a line per column, the other formats the whole."""
    output = current().output
    document = plain(value)
    if output is Format.JSON:
        print(as_json(document, indent=2))
    elif output is not Format.TABLE:
        show_rows([value], table)
    else:
        _print_fields(document, table)


def show_plan(value: Any, table: Columns) -> None:
    """Write what a command is about to do, for people: a line per column that has a value."""
    document = plain(value)
    note("Plan")
    for header, path in table:
        if text := cell(document, path):
            note(f"  {header:<18} {text}")


def cell(document: Any, path: str) -> str:
    """One value of a document as text, without control characters."""
    path, _, guard = path.partition("?")
    if guard and cell(document, guard) in ("", "0", "no"):
        return ""
    value = document
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping) and set(value) == {"amount", "currency", "atoms"}:
        value = f"{value['amount']} {value['currency']}"
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        value = ", ".join(str(item) for item in value)
    elif isinstance(value, Mapping):
        value = json.dumps(value, ensure_ascii=False)
    return printable(str(value).rstrip("\n").replace("\n", " ↵ "))


def printable(text: str, kept: str = "") -> str:
    """Text from others without what could drive the terminal, but for characters in `kept`."""
    return "".join(c if c.isprintable() or c in kept else "�" for c in text)


def write_output(text: str, stream: TextIO) -> None:
    """Write a job's output as it is; on a terminal, without what could drive that."""
    sound = text.encode(errors="backslashreplace").decode()
    stream.write(printable(text, "\n\r\t") if stream.isatty() else sound)
    stream.flush()


def _print_table(documents: Sequence[Any], table: Columns) -> None:
    """Columns side by side; on a terminal that is too narrow, a line for each. No value is cut."""
    rows = [[cell(document, path) for _, path in table] for document in documents]
    heads = [header for header, _ in table]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    if not documents:
        note("nothing to show")
    elif sys.stdout.isatty() and sum(widths) + 2 * len(widths) > shutil.get_terminal_size().columns:
        for document in documents:
            _print_fields(document, table)
            print()
    else:
        for row in (heads, ["─" * width for width in widths], *rows):
            print("  ".join(map(str.ljust, row, widths)).rstrip())


def _print_fields(document: Any, table: Columns) -> None:
    width = max(len(header) for header, _ in table)
    for header, path in table:
        print(f"{header:<{width}}  {cell(document, path)}".rstrip())


def counted(number: int, noun: str) -> str:
    """`1 ask`, `2 asks`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def note(text: str) -> None:
    """A line for people, on stderr."""
    typer.echo(printable(text, "\n"), err=True)


def warn(text: str) -> None:
    """A line that should not be overlooked."""
    typer.echo(styled("warning: ", "yellow") + printable(text, "\n"), err=True)


def styled(text: str, colour: str) -> str:
    """Text in a colour, if stderr is a terminal and NO_COLOR is not set."""
    if os.environ.get("NO_COLOR") or not sys.stderr.isatty():
        return text
    return typer.style(text, fg=colour, bold=True)
