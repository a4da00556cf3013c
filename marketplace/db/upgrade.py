"""Brings a database's schema to this version: one Alembic history, shipped with the package."""

from pathlib import Path

from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DatabaseError

from marketplace.db.engine import make_engine
from marketplace.errors import Unavailable

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(url: str, revision: str = "head") -> None:
    """Run every migration that the database does not have yet; safe to call again.

    Raises Unavailable if it cannot be opened, or a later version has written it.
    """
    engine = make_engine(url)
    shown = url.rpartition("@")[2]  # without a password
    try:
        found = _revisions(engine, shown)
        if revision == "head" and found == [newest_revision()]:
            return
        if found > [newest_revision()]:
            raise Unavailable(f"{shown} was written by a later version: install that one")
        from alembic import command  # imported only here: most starts find nothing to migrate
        from alembic.config import Config

        with engine.connect() as connection:
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            config.attributes["connection"] = connection.execution_options(writing=True)
            command.upgrade(config, revision)
    finally:
        engine.dispose()


def newest_revision() -> str:
    """The last migration's number: a file is called m<number>_<what>.py."""
    return max(path.name[1:5] for path in (MIGRATIONS / "versions").glob("m*.py"))


def _revisions(engine: Engine, shown: str) -> list[str]:
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return []
            found = connection.execute(text("SELECT version_num FROM alembic_version"))
            return [str(number) for number in found.scalars()]
    except DatabaseError as error:
        why = str(error.orig).partition("\n")[0]
        raise Unavailable(f"the database {shown} cannot be opened: {why}") from error
