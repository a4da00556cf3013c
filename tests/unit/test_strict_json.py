"""Bytes from outside: ordinary JSON is read as ever, everything else is refused within bounds."""

import ast
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from settlement import strict_json
from settlement.strict_json import BYTES_MAX, DEPTH_MAX, DIGITS_MAX, JsonError, loads

ROOT = Path(__file__).resolve().parents[2]
MIB = 1024 * 1024
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.text(
    '\\"[]{},: 0', max_size=12
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**256), 2**256)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(TEXT, inner, max_size=8),
    max_leaves=100,
)


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_what_json_writes_is_read_back(value: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert loads(text.encode()) == loads(text) == value


@given(st.text('\\"[]{},:0 a', max_size=40))
def test_no_text_is_read_otherwise_than_python_reads_it(text: str) -> None:
    assert outcome(json.loads, text) == outcome(loads, text)


def outcome(read: Callable[[str], Any], text: str) -> Any:
    """What is read; a name that appears twice is no matter here."""
    try:
        return read(text)
    except ValueError as error:
        return json.loads(text) if "twice" in str(error) else "refused"


def nested(depth: int) -> bytes:
    return b'{"a":[' * (depth // 2) + b"[" * (depth % 2) + b"]" * (depth % 2) + b"]}" * (depth // 2)


def test_nesting_is_bounded() -> None:
    loads(nested(DEPTH_MAX))
    with pytest.raises(JsonError, match="nested deeper than 64 levels"):
        loads(nested(DEPTH_MAX + 1))


@pytest.mark.parametrize("text", ['"', '"]', '"\\"]', '"\\\\', '"\\\\\\"]'])
def test_brackets_in_strings_hide_no_nesting(text: str) -> None:
    """Strings full of closing brackets, quotes and backslashes do not lower the count."""
    member = json.dumps(text * 70).encode()
    deep = b"[" + member + b"," + b"[" * DEPTH_MAX + b"]" * DEPTH_MAX + b"]"
    with pytest.raises(JsonError, match="nested deeper"):
        loads(deep)
    assert loads(b"[" + json.dumps("[" * 200 + text).encode() + b"]") == ["[" * 200 + text]


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":', b'["\\"",', b"[[],"])
def test_nesting_without_end_is_refused_at_any_recursion_limit(opening: bytes) -> None:
    code = (
        "import sys\nfrom settlement.strict_json import JsonError, loads\n"
        "sys.setrecursionlimit(1_000_000)\n"
        "try:\n    loads(sys.stdin.buffer.read())\nexcept JsonError:\n    print('refused')\n"
    )
    body = opening * (MIB // len(opening))
    ran = subprocess.run([sys.executable, "-c", code], input=body, capture_output=True, cwd=ROOT)
    assert (ran.returncode, ran.stdout) == (0, b"refused\n")


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[1] x", "Extra data"),
        (b"NaN", "NaN is not JSON"),
        (b'{"a": [-Infinity]}', "-Infinity is not JSON"),
        (b"1e999", "not finite"),
        (b"[-1.5e+9999]", "not finite"),
        (b'{"a": 1, "b": 2, "b": 3}', "the name 'b' appears twice"),
        (b'[{"a": {"\\u0062": 1, "b": 2}}]', "the name 'b' appears twice"),
        (b'"\xff"', "not UTF-8"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        ('"a"'.encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbf1", "Expecting value|BOM"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\uDC00": 1}', "surrogate"),
        (b'"a\nb"', "control character"),
        (b"9" * (DIGITS_MAX + 1), "more than 80 digits"),
        (b'["", -' + b"9" * DIGITS_MAX + b"]", "more than 80 digits"),
        (b'{"a":\t0.' + b"0" * 100 + b"1}", "more than 80 digits"),
        (b"[" + b"0," * 70_000 + b"0]", "more than 65536 items"),
        (b"[" + b"[]," * 70_000 + b"[]]", "more than 65536 items"),
        (b'{"a": "' + b"x" * BYTES_MAX + b'"}', "more than 1048576 bytes"),
    ],
)
def test_unsound_json_is_refused(raw: bytes, why: str) -> None:
    with pytest.raises(JsonError, match=why):
        loads(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'"\\ud83d\\ude00"',
        b'"\\\\ud800"',
        b"9" * DIGITS_MAX,
        b'["0x' + b"0" * 5_000 + b'", ", ' + b"1" * 5_000 + b'"]',
        b'["' + b"[{," * 100_000 + b'"]',
        b'{"a": {"a": 1}, "b": {"a": 1}}',
        b'{"a": null, "A": null}',
    ],
)
def test_what_only_looks_unsound_is_read(raw: bytes) -> None:
    assert loads(raw) == json.loads(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"[]" * 70 + b'"' + b'\\"' * (MIB // 2 - 80) + b"\\",
        b"[]" * 70 + b'"' * (MIB - 200),
        b"\\" * MIB,
        b"[" + b'",' * (MIB // 2 - 100) + b"0" * 100,
        b"{" + b",".join(b'"%x":1' % n for n in range(60_000)) + b',"ea5f":1}',
        b"[]{}" * (MIB // 4),
        b"-" * MIB,
    ],
    ids=["escapes", "quotes", "backslashes", "commas", "last name twice", "brackets", "minus"],
)
def test_hostile_megabyte_is_refused_in_a_moment(raw: bytes) -> None:
    began = time.process_time()
    with pytest.raises(JsonError):
        loads(raw)
    assert time.process_time() - began < 2  # some 0.1 s; what is not linear takes minutes


def test_file_is_read_no_further_than_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": 1}')
    assert strict_json.load(path) == {"a": 1}
    with pytest.raises(JsonError, match="more than 7 bytes"):
        strict_json.load(path, 7)
    with pytest.raises(JsonError, match="more than"):
        strict_json.load(Path("/dev/zero"))


EVERY_MODULE = """
import importlib, pkgutil, sys
import marketplace, settlement
for package in (settlement, marketplace):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("migrations.env"):  # runs inside Alembic only
            importlib.import_module(found.name)
import eth_account.typed_transactions, py_ecc.bn128, web3
print(sys.getrecursionlimit())
"""


@pytest.mark.parametrize("first", ["", "import web3"])
def test_recursion_limit_is_the_default_once_every_module_is_there(first: str) -> None:
    code = f"{first}\n{EVERY_MODULE}"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert ran.stdout.strip() == "1000"


# Where Python's own decoder reads what this program, or its package, wrote itself.
OWN_WORDS = {
    "marketplace/agent/journal.py": "its own database",
    "marketplace/agent/runtime/launch.py": "the agent's order; it imports nothing of ours",
    "marketplace/agent/runtime/process.py": "bubblewrap's status",
    "marketplace/data/__init__.py": "a table of the package",
    "marketplace/domain/snapshot.py": "the matcher's own snapshot",
    "settlement/chain/abi.py": "an artifact of the package",
}


def test_nothing_from_outside_is_read_by_another_decoder() -> None:
    found = set()
    for package in ("settlement", "marketplace"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                    "json.loads", "json.load", "response.json", "request.json",
                ):  # fmt: skip
                    found.add(path.relative_to(ROOT).as_posix())
    assert found == set(OWN_WORDS)
