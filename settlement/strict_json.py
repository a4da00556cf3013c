"""The one JSON decoder for bytes from outside. It limits what it reads.

Python's parser recurses once per level and converts numbers of any length, so this module checks
nesting, items and digits in linear time before it calls the parser. Besides what RFC 8259 forbids,
it refuses duplicate names in one object, NaN and infinite numbers, bytes that are not UTF-8,
unpaired surrogates, and anything beyond the limits below.
"""

import json
import math
import re
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any

BYTES_MAX = 1024 * 1024
DEPTH_MAX = 64
DIGITS_MAX = 80  # a 256-bit number has 78
BYTES_PER_ITEM = 16  # the least on average: `[[],[],…` takes 30 times its size in memory
ITEMS_MIN = 1024

# Long runs of digits where a number may begin. Hexadecimal text has many elsewhere.
_LONG_NUMBER = re.compile(rb"[\s\[:,][-+.0-9eE]{%d}" % (DIGITS_MAX + 1))
_STRING = re.compile(rb'"[^"]*"?')
_ALL_BUT_MARKS = bytes(set(range(256)) - set(b'"[]{},'))
_LONE = re.compile(r"\\u[dD][89a-fA-F]")
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1, ord(","): 0}


class JsonError(ValueError):
    """The bytes are not JSON or exceed a limit. Callers add where the bytes came from."""


def loads(raw: bytes | str, bytes_max: int = BYTES_MAX, items_max: int | None = None) -> Any:
    """The value of a JSON text. Raises JsonError."""
    if len(raw) > bytes_max:
        raise JsonError(f"more than {bytes_max} bytes")
    try:
        data = raw.encode() if isinstance(raw, str) else raw
        text = raw if isinstance(raw, str) else raw.decode()
    except UnicodeError:
        raise JsonError("not UTF-8") from None
    _check_bounds(data, items_max or max(ITEMS_MIN, bytes_max // BYTES_PER_ITEM))
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise JsonError(f"{error.msg} at character {error.pos}") from None
    if _LONE.search(text):
        _check_surrogates(value)
    return value


def load(path: Path, bytes_max: int = BYTES_MAX) -> Any:
    """The value of a JSON file of at most `bytes_max` bytes. Raises JsonError, OSError."""
    with path.open("rb") as file:
        return loads(file.read(bytes_max + 1), bytes_max)


def _check_bounds(data: bytes, items_max: int) -> None:
    """Raise JsonError if the text nests too deep or has too many items or too long a number."""
    if _LONG_NUMBER.search(b" " + data) and _LONG_NUMBER.search(b" " + _without_strings(data)):
        raise JsonError(f"a number has more than {DIGITS_MAX} digits")
    opened = data.count(b"[") + data.count(b"{")
    if opened <= DEPTH_MAX and opened + data.count(b",") <= items_max:
        return  # the usual case, even if it counts characters inside strings
    # Dropping adjacent quotes does not change which other marks are inside a string.
    marks = _without_escapes(data).translate(None, _ALL_BUT_MARKS).replace(b'""', b"")
    marks = _STRING.sub(b"", marks)
    if marks.count(b",") + marks.count(b"[") + marks.count(b"{") > items_max:
        raise JsonError(f"more than {items_max} items")
    if max(accumulate(map(_STEP.__getitem__, marks)), default=0) > DEPTH_MAX:
        raise JsonError(f"nested deeper than {DEPTH_MAX} levels")


def _without_escapes(data: bytes) -> bytes:
    """Drop escaped backslashes and quotes, so that every remaining quote delimits a string."""
    return data.replace(rb"\\", b"").replace(rb"\"", b"")


def _without_strings(data: bytes) -> bytes:
    return _STRING.sub(b'""', _without_escapes(data))


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise JsonError("an escaped surrogate is unpaired") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise JsonError(f"the name {twice!r:.80} appears twice in one object")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise JsonError(f"the number {text:.80} is not finite")
    return number


def _constant(text: str) -> Any:
    raise JsonError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_finite, parse_constant=_constant
)
