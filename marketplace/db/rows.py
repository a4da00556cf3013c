"""What every table offers: a row by its key, a new row, and rows that a log numbers."""

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from sqlalchemy import func, inspect
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, SQLModel, select
from sqlmodel.sql.expression import SelectOfScalar

from marketplace.db.tables import Part
from marketplace.errors import AlreadyExists

R = TypeVar("R", bound=SQLModel)
T = TypeVar("T")


class Rows(Generic[R]):
    """The rows of one table in one transaction; subclasses name what the market asks of them."""

    def __init__(self, session: Session, row: type[R]) -> None:
        self._session = session
        self._row = row
        self._held: list[R] = []

    @property
    def _key(self) -> Any:
        (key,) = inspect(self._row).primary_key
        return key

    def get(self, key: str | None, *, lock: bool = False) -> R | None:
        """The row with this key; `lock` reads it anew and keeps other writers off it."""
        if key is None:
            return None
        return self._session.get(self._row, key, with_for_update=lock, populate_existing=lock)

    def need(self, key: str, *, lock: bool = False) -> R:
        """The row with this key. Raises KeyError."""
        found = self.get(key, lock=lock)
        if found is None:
            raise KeyError(key)
        return found

    def add(self, row: R, taken: Exception | None = None) -> R:
        """Insert a row at once, so that the constraints speak. Raises `taken`, or AlreadyExists."""
        self._session.add(row)
        try:
            self._session.flush()
        except IntegrityError as error:
            table = self._row.__tablename__
            detail = f"another row of {table} has the same unique value"
            raise taken or AlreadyExists(detail) from error
        return row

    def hold(self, keys: Iterable[str | None]) -> None:
        """Read rows in one statement, so that `get` needs none for each of them."""
        wanted = set(keys) - {None}
        if wanted:
            self._held += self._all(select(self._row).where(self._key.in_(wanted)))

    def _all(self, query: SelectOfScalar[T]) -> list[T]:
        return list(self._session.exec(query))

    def _first(self, query: SelectOfScalar[T]) -> T | None:
        return self._session.exec(query.limit(1)).first()

    def _count(self, *conditions: Any) -> int:
        query = select(func.count()).select_from(self._row).where(*conditions)
        return self._session.exec(query).one()

    def _oldest_first(self, *conditions: Any) -> SelectOfScalar[R]:
        return select(self._row).where(*conditions).order_by(self._key)

    def _page(self, part: Part, *conditions: Any) -> list[R]:
        """Rows newest first."""
        limit, before = part
        query = select(self._row).where(*conditions)
        if before is not None:
            query = query.where(self._key < before)
        return self._all(query.order_by(self._key.desc()).limit(limit))


class NumberedRows(Rows[R]):
    """Rows that are numbered (`seq`) in the order in which transactions become visible.

    Rows wait until the transaction ends. Then one transaction at a time numbers its rows and
    commits, so a reader that has seen a number never gets a smaller one later. The transaction has
    all its row locks by then, so it waits for nobody who waits for it.
    """

    def __init__(self, session: Session, row: type[R]) -> None:
        super().__init__(session, row)
        self.waiting: list[R] = []

    def append(self, row: R) -> None:
        """Add a row when this transaction ends; it is numbered then, and not found before."""
        self.waiting.append(row)

    def _after(self, seq: int, limit: int, *conditions: Any) -> list[R]:
        return self._all(self._oldest_first(self._key > seq, *conditions).limit(limit))
