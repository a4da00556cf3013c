"""What every table offers: a row by its key, a new row, and rows that a log numbers."""

from collections.abc import Iterable
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import inspect
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, SQLModel, select
from sqlmodel.sql.expression import SelectOfScalar

from marketplace.errors import AlreadyExists

R = TypeVar("R", bound=SQLModel)
T = TypeVar("T")


class Rows(Generic[R]):
    """The rows of one table in one transaction; subclasses name what the market asks of them."""

    row: ClassVar[type[Any]]

    def __init__(self, session: Session) -> None:
        self._session = session
        self._held: list[R] = []

    def get(self, key: str | None, *, lock: bool = False) -> R | None:
        """The row with this key; `lock` reads it anew and keeps other writers off it."""
        if key is None:
            return None
        found: R | None = self._session.get(
            self.row, key, with_for_update=lock, populate_existing=lock
        )
        return found

    def need(self, key: str, *, lock: bool = False) -> R:
        """The row with this key. Raises KeyError."""
        found = self.get(key, lock=lock)
        if found is None:
            raise KeyError(key)
        return found

    def add(self, row: R) -> R:
        """Insert a row at once, so that the constraints speak. Raises AlreadyExists."""
        self._session.add(row)
        try:
            self._session.flush()
        except IntegrityError as error:
            table = self.row.__tablename__
            raise AlreadyExists(f"another row of {table} has the same unique value") from error
        return row

    def hold(self, keys: Iterable[str | None]) -> None:
        """Read rows in one statement, so that `get` needs none for each of them."""
        wanted = set(keys) - {None}
        if wanted:
            (key,) = inspect(self.row).primary_key
            self._held += self._all(select(self.row).where(key.in_(wanted)))

    def _all(self, query: SelectOfScalar[T]) -> list[T]:
        return list(self._session.exec(query))

    def _first(self, query: SelectOfScalar[T]) -> T | None:
        return self._session.exec(query.limit(1)).first()

    def _page(self, query: SelectOfScalar[R], limit: int, before: str | None) -> list[R]:
        """Rows newest first, older than the key `before`."""
        (key,) = inspect(self.row).primary_key
        if before is not None:
            query = query.where(key < before)
        return self._all(query.order_by(key.desc()).limit(limit))


class NumberedRows(Rows[R]):
    """Rows that are numbered (`seq`) in the order in which transactions become visible.

    Rows wait until the transaction ends. Then one transaction at a time numbers its rows and
    commits, so a reader that has seen a number never gets a smaller one later. The transaction has
    all its row locks by then, so it waits for nobody who waits for it.
    """

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.waiting: list[R] = []

    def append(self, row: R) -> None:
        """Add a row when this transaction ends; it is numbered then, and not found before."""
        self.waiting.append(row)

    def _after(self, query: SelectOfScalar[R], seq: int, limit: int) -> list[R]:
        return self._all(query.where(self.row.seq > seq).order_by(self.row.seq).limit(limit))
