"""Brings a database's schema to this version: one Alembic history, shipped with the package."""

from pathlib import Path

from sqlalchemy import Engine, inspect, text

from marketplace.db.engine import make_engine

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(url: str, revision: str = "head") -> None:
    """Run every migration that the database does not have yet; safe to call again."""
    engine = make_engine(url)
    try:
        if revision == "head" and _is_current(engine):
            return
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


def _is_current(engine: Engine) -> bool:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return False
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    return found == [newest_revision()]
