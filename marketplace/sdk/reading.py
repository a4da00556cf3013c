"""Answers into the API's classes, and the caller's mistakes into one error."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import ValidationError

from marketplace.errors import InvalidInput, Problem
from marketplace.sdk.errors import InputError, ProtocolError
from marketplace.wire.base import Model
from marketplace.wire.problems import problems_of

T = TypeVar("T", bound=Model)
SHOWN = 5


def read(kind: type[T], value: Any, where: str = "") -> T:
    """An answer as what it should be. Raises ProtocolError naming the members that do not fit."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        found = "; ".join(
            f"{where}{problem.pointer or '/'}: {problem.detail}"
            for problem in problems_of(error.errors())[:SHOWN]
        )
        raise ProtocolError(f"the answer is not a {kind.__name__}: {found}") from None


def read_page(
    kind: type[T], value: Any, path: str, cursor: str | None
) -> tuple[list[T], str | None]:
    """The items of one page, and the cursor of the next one. Raises ProtocolError."""
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise ProtocolError(f"{path}: expected a list with `data`")
    items = [read(kind, item, f"/data/{i}") for i, item in enumerate(value["data"])]
    following = value.get("next_cursor") if value.get("has_more") is True else None
    if following is not None and (not isinstance(following, str) or following == cursor):
        raise ProtocolError(f"{path}: the list does not go on after {cursor!r:.80}")
    return items, following


@contextmanager
def input_errors(what: str = "") -> Iterator[None]:
    """Raise InputError for what the caller said wrongly, with every mistake and its place."""
    try:
        yield
    except InvalidInput as error:
        raise _input_error(what, error.problems) from error
    except ValidationError as error:
        raise _input_error(what, problems_of(error.errors())) from error


def _input_error(what: str, problems: tuple[Problem, ...]) -> InputError:
    lines = [f"{p.pointer or '/'}: {p.detail}" for p in problems]
    text = "\n".join([f"{what}:", *(f"  {line}" for line in lines)]) if what else "; ".join(lines)
    return InputError(text, pointer=problems[0].pointer if problems else "")
