"""The `coulomb` command over the SDK. `main` imports the module of the noun that is asked for."""

from enum import StrEnum


class Format(StrEnum):
    """How data is written to stdout."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
