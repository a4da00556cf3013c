"""Reads JSON into frozen dataclasses by their type hints; members it doesn't know are ignored.

Integers may come as decimal strings (atoms and rates exceed what JSON numbers carry safely).
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any, TypeVar

from marketplace.sdk.errors import ProtocolError
from settlement.eip712 import Struct
from settlement.errors import FieldError

T = TypeVar("T")
Reader = Callable[[Any, str], Any]
# No number of ours is longer, and each digit more costs those who compute with it.
_INTEGER = re.compile(r"-?[0-9]{1,80}")
_DECIMAL = re.compile(r"-?[0-9]{1,80}(\.[0-9]{1,80})?")


def decode(kind: type[T], value: Any, pointer: str = "") -> T:
    """Read `value` as `kind`. Raises ProtocolError naming the member that does not fit."""
    reader: Reader = _reader(kind)  # type: ignore[arg-type]
    return typing.cast(T, reader(value, pointer))


def _wrong(pointer: str, wanted: str, value: Any) -> ProtocolError:
    return ProtocolError(f"{pointer or '/'}: expected {wanted}, got {value!r:.80}")


def _integer(value: Any, pointer: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    raise _wrong(pointer, "an integer", value)


def _decimal(value: Any, pointer: str) -> Decimal:
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return Decimal(value)
    raise _wrong(pointer, "a decimal number as text", value)


def _time(value: Any, pointer: str) -> datetime:
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass
    raise _wrong(pointer, "an RFC 3339 time", value)


def _plain(kind: type) -> Reader:
    def read(value: Any, pointer: str) -> Any:
        if not isinstance(value, kind):
            raise _wrong(pointer, kind.__name__, value)
        return value

    return read


def _hex(value: Any, pointer: str) -> bytes:
    if isinstance(value, str):
        try:
            return bytes.fromhex(value.removeprefix("0x"))
        except ValueError:
            pass
    raise _wrong(pointer, "hexadecimal bytes", value)


def _struct(kind: type[Struct]) -> Reader:
    def read(value: Any, pointer: str) -> Struct:
        try:
            return kind.from_message(value, pointer)
        except FieldError as error:
            raise ProtocolError(f"{kind.primary}: {error}") from None

    return read


def _many(item: Reader) -> Reader:
    def read(value: Any, pointer: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _wrong(pointer, "a list", value)
        return tuple(item(v, f"{pointer}/{i}") for i, v in enumerate(value))

    return read


def _optional(item: Reader) -> Reader:
    return lambda value, pointer: None if value is None else item(value, pointer)


def _object(kind: Any) -> Reader:
    hints = typing.get_type_hints(kind)
    members = [(f.name, _reader(hints[f.name]), _is_required(f)) for f in fields(kind)]

    def read(value: Any, pointer: str) -> Any:
        if not isinstance(value, dict):
            raise _wrong(pointer, f"an object ({kind.__name__})", value)
        found = {}
        for name, item, required in members:
            if name in value:
                found[name] = item(value[name], f"{pointer}/{name}")
            elif required:
                raise ProtocolError(f"{pointer}/{name}: missing from {kind.__name__}")
        return kind(**found)

    return read


def _is_required(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


_PLAIN: dict[Any, Reader] = {
    Any: lambda value, _: value,
    int: _integer,
    Decimal: _decimal,
    datetime: _time,
    bytes: _hex,
    str: _plain(str),
    bool: _plain(bool),
}


@cache
def _reader(kind: Any) -> Reader:
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        inner = [a for a in arguments if a is not type(None)]
        if len(inner) == 1:
            return _optional(_reader(inner[0]))
    if origin is tuple:
        return _many(_reader(arguments[0]))
    if origin in (dict, Mapping) or kind is dict:
        return _plain(dict)
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _struct(kind)
    if is_dataclass(kind):
        return _object(kind)
    raise TypeError(f"no reader for {kind!r}")
