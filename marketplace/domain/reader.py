"""Reading untrusted JSON: every mistake is collected with its pointer, none stops the reading."""

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, Concatenate, ParamSpec, TypeVar

from marketplace.errors import InvalidInput, Problem
from marketplace.limits import PROBLEMS_MAX

T = TypeVar("T")
D = TypeVar("D")
P = ParamSpec("P")
_DURATION = re.compile(r"([0-9]{1,9})(s|m|h|d)\Z")
_NAME_CHARS = 64  # of an unknown name that are compared with the known ones
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NUMBER = re.compile(r"([0-9]{1,7})(?:\.([0-9]{1,3}))?\Z")
_SIZE = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,3}))?\s?(M|G|T)i?B\Z", re.IGNORECASE)
_SURROGATE = re.compile("[\ud800-\udfff]")
_MIB = {"M": 1, "G": 1024, "T": 1024 * 1024}


def escape(key: str) -> str:
    """A member's name as one step of an RFC 6901 pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8: JSON lets lone surrogates through."""
    return not _SURROGATE.search(text)


def seconds_of(text: object) -> int:
    """A duration such as "90s", "10m", "6h" or "2d" in seconds; ValueError says what is allowed."""
    match = _DURATION.match(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f'must be a duration such as "90s", "10m" or "6h", not {text!r}')
    return int(match.group(1)) * _SECONDS[match.group(2)]


def duration_text(seconds: int) -> str:
    """The shortest text that `seconds_of` reads back."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"


def mib_of(text: object) -> int:
    """A size such as "64GB" or "512MiB" in MiB; GB and GiB both mean 1024 MiB.

    Raises ValueError if the text is not a size or not a whole number of MiB.
    """
    match = _SIZE.match(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f'must be a size such as "64GB" or "512MiB", not {text!r}')
    whole, fraction, unit = match.group(1), match.group(2) or "", match.group(3).upper()
    scaled = int(whole + fraction) * _MIB[unit]
    if scaled % 10 ** len(fraction):
        raise ValueError(f"{text!r} is not a whole number of MiB")
    return int(scaled // 10 ** len(fraction))


def size_text(mib: int) -> str:
    """The shortest text that `mib_of` reads back."""
    for unit in ("T", "G"):
        if mib and mib % _MIB[unit] == 0:
            return f"{mib // _MIB[unit]}{unit}B"
    return f"{mib}MB"


class Reader:
    """One object of the input. `problems` is shared with every reader made from it."""

    def __init__(
        self, data: object, known: Iterable[str], problems: list[Problem], pointer: str = ""
    ) -> None:
        self.problems = problems
        self.pointer = pointer
        self.known = tuple(known)
        members = ", ".join(self.known)
        if not isinstance(data, dict):
            self.problem("", f"must be an object with members such as {members}")
            data = {}
        self.data: dict[str, Any] = {}
        for key, value in data.items():
            if not isinstance(key, str) or not is_unicode(key):
                self.problem(ascii(key), "a key must be text: write it in quotes")
            elif key in self.known:
                self.data[key] = value
            elif len(problems) <= PROBLEMS_MAX:
                close = get_close_matches(key[:_NAME_CHARS], self.known, n=1, cutoff=0.6)
                hint = f"did you mean {close[0]}?" if close else f"known are {members}"
                self.problem(key, f"unknown key; {hint}")

    def problem(self, key: str, detail: str) -> None:
        """Note what is wrong with a member (or with this object, for ""), up to PROBLEMS_MAX."""
        pointer = f"{self.pointer}/{escape(key)}" if key else self.pointer
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(pointer, detail))
        elif len(self.problems) == PROBLEMS_MAX:
            self.problems.append(Problem("", "there are more mistakes than these"))

    def has(self, key: str) -> bool:
        """Whether the member is there and not null."""
        return self.data.get(key) is not None

    def child(self, key: str, known: Iterable[str]) -> "Reader":
        """A reader of a member object; an absent one reads as empty."""
        pointer = f"{self.pointer}/{escape(key)}"
        return Reader(self.data[key] if self.has(key) else {}, known, self.problems, pointer)

    def read(self, key: str, parse: Callable[[object], T], default: D) -> T | D:
        """The member as `parse` reads it, whose errors become problems; `default` if absent."""
        if not self.has(key):
            return default
        try:
            return parse(self.data[key])
        except InvalidInput as error:
            inside = f"{self.pointer}/{escape(key)}"
            self.problems += [Problem(inside + p.pointer, p.detail) for p in error.problems]
        except ValueError as error:
            self.problem(key, str(error))
        return default

    def need(self, key: str, parse: Callable[[object], T], default: T) -> T:
        """Like `read`, but absence is a problem, too; the default only keeps the reading going."""
        if not self.has(key):
            self.problem(key, "missing")
        return self.read(key, parse, default)


def parser(read: Callable[Concatenate[object, P], T]) -> Callable[P, Callable[[object], T]]:
    """Turns a function of a value and bounds into one of the bounds that makes a parser."""
    return lambda *args, **bounds: lambda value: read(value, *args, **bounds)


@parser
def duration_of(value: object, maximum: int) -> int:
    """A parser of a duration of at most so many seconds."""
    if (seconds := seconds_of(value)) > maximum:
        raise ValueError(f"must be at most {maximum}s")
    return seconds


@parser
def text_of(value: object, maximum: int, pattern: str = r".*") -> str:
    """A parser of printable text of 1 to `maximum` characters that matches the whole pattern."""
    if not isinstance(value, str) or not 1 <= len(value) <= maximum:
        raise ValueError(f"must be text of 1 to {maximum} characters")
    if "\0" in value or not is_unicode(value):
        raise ValueError("must be Unicode text without NUL")
    if not re.fullmatch(pattern, value, re.DOTALL):
        raise ValueError(f"{value!r} must match {pattern}")
    return value


@parser
def choice_of(value: object, *allowed: str) -> str:
    """A parser of one of the given words."""
    if not isinstance(value, str) or value not in allowed:
        close = get_close_matches(str(value), allowed, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"must be one of {', '.join(allowed)}{hint}")
    return value


@parser
def whole_of(value: object, minimum: int, maximum: int) -> int:
    """A parser of a whole number within inclusive bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        raise ValueError(f"must be a whole number from {minimum} to {maximum}")
    return value


@parser
def list_of(value: object, parse: Callable[[object], T], maximum: int) -> tuple[T, ...]:
    """A parser of a list of at most `maximum` items."""
    if not isinstance(value, list) or len(value) > maximum:
        raise ValueError(f"must be a list of at most {maximum} items")
    items: list[T] = []
    problems: list[Problem] = []
    for index, item in enumerate(value):
        try:
            items.append(parse(item))
        except InvalidInput as error:
            problems += [Problem(f"/{index}{p.pointer}", p.detail) for p in error.problems]
        except ValueError as error:
            problems.append(Problem("", f"item {index} {error}"))
    if problems:
        raise InvalidInput(problems)
    return tuple(items)


@parser
def object_of(value: object, /, make: Callable[..., T], **members: Callable[[object], Any]) -> T:
    """A parser of an object that must have these members; `make` takes their values in order."""
    problems: list[Problem] = []
    reader = Reader(value, members, problems)
    values = [reader.need(key, parse, None) for key, parse in members.items()]
    if problems:
        raise InvalidInput(problems)
    return make(*values)


@parser
def thousandths_of(value: object, minimum: int, maximum: int) -> int:
    """A parser of a number with at most three decimals, as thousandths; bounds inclusive."""
    text = str(value) if isinstance(value, (int, float)) else value
    match = _NUMBER.match(text) if isinstance(text, str) else None
    if match is None or isinstance(value, bool):
        raise ValueError(f"must be a number with at most three decimals, not {value!r}")
    milli = int(match.group(1)) * 1000 + int((match.group(2) or "").ljust(3, "0"))
    if not minimum <= milli <= maximum:
        raise ValueError(f"must be from {minimum / 1000:g} to {maximum / 1000:g}")
    return milli


def milli_text(milli: int) -> str:
    """Thousandths as the shortest decimal text."""
    whole, fraction = divmod(milli, 1000)
    return f"{whole}.{fraction:03d}".rstrip("0") if fraction else str(whole)


@parser
def lower_bound_of(value: object, parse: Callable[[object], T]) -> T:
    """A parser of `X` or `X..`: what is bought is exactly X, so no upper bound can be given."""
    text = value.removesuffix("..") if isinstance(value, str) else value
    if isinstance(text, str) and ".." in text:
        raise ValueError(f"has an upper bound in {value!r}; the lower is bought: use X..")
    return parse(text)


def bool_of(value: object) -> bool:
    """A parser of true or false."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value
