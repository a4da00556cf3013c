"""Data on stdout in the format asked for; everything for people on stderr."""

import csv
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from marketplace.cli.context import Format, current


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: its header and where its value is (`a.b` reaches into `a`)."""

    header: str
    path: str


def columns(*specs: str) -> tuple[Column, ...]:
    """Columns from `path` or `header=path`."""
    parts = (spec.partition("=") for spec in specs)
    return tuple(Column(h, p) if p else Column(h.replace("_", " "), h) for h, _, p in parts)


def plain(value: Any) -> Any:
    """Any value as JSON carries it: the API's own form, if it has one."""
    for name in ("to_json", "to_message"):  # what travels, and what is signed, know their own form
        if hasattr(value, name):
            return getattr(value, name)()
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    return value


def show_rows(rows: Iterable[Any], table: Sequence[Column]) -> None:
    """Write a list. `jsonl` writes each row as it comes."""
    output = current().output
    if output is Format.JSONL:
        for row in rows:
            print(json.dumps(plain(row), ensure_ascii=False), flush=True)
        return
    documents = [plain(row) for row in rows]
    if output is Format.JSON:
        print(json.dumps(documents, indent=2, ensure_ascii=False))
    elif output is Format.CSV:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([column.header for column in table])
        for document in documents:
            writer.writerow([cell(document, column.path) for column in table])
    else:
        _print_table(documents, table)


def stream_rows(rows: Iterable[Any], table: Sequence[Column]) -> None:
    """Write rows as they come, however long that takes; a table is one plain line per row."""
    output = current().output
    if output is Format.CSV:
        print(",".join(column.header for column in table), flush=True)
    for row in rows:
        document = plain(row)
        if output is Format.TABLE:
            shown = ((column.header, cell(document, column.path)) for column in table)
            print("  ".join(f"{header}={text}" for header, text in shown if text), flush=True)
        elif output is Format.CSV:
            csv.writer(sys.stdout, lineterminator="\n").writerow(
                [cell(document, column.path) for column in table]
            )
            sys.stdout.flush()
        else:
            print(json.dumps(document, ensure_ascii=False), flush=True)


def show(value: Any, table: Sequence[Column]) -> None:
    """Write one object: a table shows a line per column, the other formats the whole."""
    output = current().output
    document = plain(value)
    if output is Format.JSON:
        print(json.dumps(document, indent=2, ensure_ascii=False))
    elif output is not Format.TABLE:
        show_rows([value], table)
    else:
        width = max(len(column.header) for column in table)
        for column in table:
            print(f"{column.header:<{width}}  {cell(document, column.path)}")


def cell(document: Any, path: str) -> str:
    """One value of a document as text, without control characters."""
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
    return printable(str(value))


def printable(text: str) -> str:
    """Text from others without what could drive the terminal."""
    return "".join(c if c.isprintable() else "�" for c in text)


def _print_table(documents: Sequence[Any], table: Sequence[Column]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in table:
        grid.add_column(column.header, overflow="fold", no_wrap=not sys.stdout.isatty())
    for document in documents:
        grid.add_row(*(Text(cell(document, column.path)) for column in table))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 1_000)
    with console.capture() as drawn:
        console.print(grid)
    for line in drawn.get().splitlines():
        print(line.rstrip())
    if not documents:
        note("nothing to show")


def note(text: str) -> None:
    """A line for people, on stderr."""
    typer.echo(text, err=True)


def warn(text: str) -> None:
    """A line that should not be overlooked."""
    typer.echo(styled("warning: ", "yellow") + text, err=True)


def styled(text: str, colour: str) -> str:
    """Text in a colour, where stderr is a terminal and NO_COLOR is not set."""
    if os.environ.get("NO_COLOR") or not sys.stderr.isatty():
        return text
    return typer.style(text, fg=colour, bold=True)
