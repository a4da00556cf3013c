"""Data on stdout in four formats; nothing from others drives the terminal."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from marketplace.cli import Format
from marketplace.cli.context import Cli, begin
from marketplace.cli.output import cell, columns, note, plain, show, show_rows, stream_rows, warn
from marketplace.wire.base import Money
from settlement.orders import Prices

Output = Callable[[Format], None]
Capture = pytest.CaptureFixture[str]
TINY = Money.of(40_833_333_333, "CMP", 18)


@dataclass(frozen=True)
class Row:
    id: str
    cost: Money
    note: str | None = None


ROWS = [Row("a", TINY), Row("b", TINY, 'x,"y"')]
TABLE = columns("id", "cost", "what=note")


@pytest.fixture
def output() -> Iterator[Output]:
    yield lambda form: begin(Cli(output=form))
    begin(Cli())


def test_plain_carries_every_kind() -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    assert plain({"a": (at, b"\x01", Decimal("1E-7"), Format.CSV, Path("x"), None, 2**70)}) == {
        "a": ["2026-01-02T00:00:00Z", "0x01", "0.0000001", "csv", "x", None, 2**70]
    }
    assert plain(TINY) == {
        "amount": "0.000000040833333333", "currency": "CMP", "atoms": "40833333333",
    }  # fmt: skip
    assert plain(Prices(5))["gpuHour"] == "5"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "yes"), (False, "no"), (None, ""), (0, "0"), (["a", 1], "a, 1"),
        ({"amount": "1", "currency": "CMP", "atoms": "1"}, "1 CMP"), ({"a": 1}, '{"a": 1}'),
        ("\x1b[31mred\x07", "�[31mred�"), ("one\ntwo\n", "one ↵ two"),
    ],
)  # fmt: skip
def test_cell_is_text_for_people(value: object, text: str) -> None:
    assert cell({"x": {"y": value}}, "x.y") == text


def test_names_that_are_not_utf8_travel_as_escapes(output: Output, capsys: Capture) -> None:
    output(Format.JSON)
    show_rows([{"file": "raw\udcff"}], columns("file"))
    assert json.loads(capsys.readouterr().out) == [{"file": "raw\udcff"}]


def test_notes_and_errors_do_not_drive_the_terminal(capsys: Capture) -> None:
    note("one\ntwo\x1b[2J")
    warn("\x9b3J")
    assert capsys.readouterr().err == "one\ntwo�[2J\nwarning: �3J\n"


def test_missing_path_is_empty() -> None:
    assert cell({"x": 1}, "x.y.z") == ""


def test_json_is_one_document(output: Output, capsys: Capture) -> None:
    output(Format.JSON)
    show_rows(ROWS, TABLE)
    assert [r["id"] for r in json.loads(capsys.readouterr().out)] == ["a", "b"]
    show(ROWS[0], TABLE)
    assert json.loads(capsys.readouterr().out)["cost"]["atoms"] == "40833333333"


@pytest.mark.parametrize("write", [show_rows, stream_rows])
def test_jsonl_is_a_document_a_line(
    write: Callable[..., None], output: Output, capsys: Capture
) -> None:
    output(Format.JSONL)
    write(ROWS, TABLE)
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["a", "b"]


@pytest.mark.parametrize("write", [show_rows, stream_rows])
def test_csv_reads_back(write: Callable[..., None], output: Output, capsys: Capture) -> None:
    output(Format.CSV)
    write(ROWS, TABLE)
    assert list(csv.reader(io.StringIO(capsys.readouterr().out))) == [
        ["id", "cost", "what"],
        ["a", "0.000000040833333333 CMP", ""],
        ["b", "0.000000040833333333 CMP", 'x,"y"'],
    ]


def test_table_shows_every_value_whole(output: Output, capsys: Capture) -> None:
    output(Format.TABLE)
    long = "v" * 300
    show_rows([Row("a", TINY, long)], TABLE)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["id", "cost", "what"]
    assert lines[2].split() == ["a", "0.000000040833333333", "CMP", long]


def test_a_terminal_that_is_too_narrow_shows_a_line_for_each_value(
    output: Output, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    output(Format.TABLE)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    show_rows([Row("i" * 70, TINY)], TABLE)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["id    " + "i" * 70, "cost  0.000000040833333333 CMP"]
    show_rows([Row("i" * 20, TINY)], TABLE)
    assert capsys.readouterr().out.splitlines()[0].split() == ["id", "cost", "what"]


def test_empty_table_says_so_on_stderr(output: Output, capsys: Capture) -> None:
    output(Format.TABLE)
    show_rows([], TABLE)
    captured = capsys.readouterr()
    assert captured.err == "nothing to show\n"
    output(Format.JSON)
    show_rows([], TABLE)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("[]\n", "")


def test_stream_of_rows_is_a_line_each(output: Output, capsys: Capture) -> None:
    output(Format.TABLE)
    stream_rows(ROWS, TABLE)
    assert capsys.readouterr().out.splitlines() == [
        "id=a  cost=0.000000040833333333 CMP",
        'id=b  cost=0.000000040833333333 CMP  what=x,"y"',
    ]
