"""Databases for tests: SQLite files in memory, migrated once per process, and what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from sqlalchemy import event, inspect
from sqlmodel import SQLModel, select

from marketplace.db.store import Database, Store
from marketplace.db.upgrade import upgrade

R = TypeVar("R", bound=SQLModel)
MEMORY = Path("/dev/shm")  # noqa: S108 - where it is missing, a disk does
_free: list[Database] = []
_numbers = count()


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)


@cache
def empty_database() -> bytes:
    """A migrated database without rows, made once per process: migrating takes most of a test."""
    path = Path(_folder().name) / "empty.db"
    upgrade(f"sqlite:///{path}")
    return path.read_bytes()


@contextmanager
def sqlite_database() -> Iterator[Database]:
    """An empty database, one of its own for each holder.

    Its engine is used again by a later holder: it knows its statements by then, and compiling them
    takes longer than most tests.
    """
    if _free:
        database = _free.pop()
    else:
        database = Database(f"sqlite:///{_folder().name}/{next(_numbers)}.db")
    Path(str(database.engine.url.database)).write_bytes(empty_database())
    try:
        yield database
    finally:
        database.close()
        _free.append(database)


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """The statements that are sent to a database meanwhile."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if not statement.startswith("BEGIN"):
            seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def rows_of(store: Store, row: type[R], **equal: Any) -> list[R]:
    """Every row of a table that has these values, in the order of its key."""
    query = select(row).filter_by(**equal).order_by(*inspect(row).primary_key)
    return list(store.session.exec(query))
