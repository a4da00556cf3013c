"""Column types that hold the same values on both databases."""

from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Dialect, Integer, Numeric, String
from sqlalchemy.types import TypeDecorator, TypeEngine

ATOMS_DIGITS = 78  # decimal digits of 2^256
# SQLite numbers rows by itself only for a column declared INTEGER.
Serial = BigInteger().with_variant(Integer(), "sqlite")


class Atoms(TypeDecorator[int]):
    """An unsigned integer up to 10^78-1: NUMERIC(78,0) on PostgreSQL, fixed-width text on SQLite.
    The text is padded with zeros, so that comparing and sorting text compares and sorts numbers."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(Numeric(ATOMS_DIGITS, 0))
        return dialect.type_descriptor(String(ATOMS_DIGITS))

    def process_bind_param(self, value: int | None, dialect: Dialect) -> Any:
        """Write a value; negative or larger ones raise ValueError."""
        if value is None:
            return None
        if not 0 <= value < 10**ATOMS_DIGITS:
            raise ValueError(f"{value} is not between 0 and 10^{ATOMS_DIGITS}-1")
        return value if dialect.name == "postgresql" else str(value).zfill(ATOMS_DIGITS)

    def process_result_value(self, value: Any, dialect: Dialect) -> int | None:
        return None if value is None else int(value)


class Word(TypeDecorator[StrEnum]):
    """One of an enum's words, as text. The database does not know which words there are."""

    impl = String
    cache_ok = True

    def __init__(self, words: type[StrEnum]) -> None:
        super().__init__()
        self.words = words

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Write a word. A query for a word that the enum lacks finds nothing."""
        return None if value is None else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> StrEnum | None:
        return None if value is None else self.words(value)
