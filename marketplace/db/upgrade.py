"""Brings a database's schema to this version: one Alembic history, shipped with the package."""

from pathlib import Path

from alembic import command
from alembic.config import Config

from marketplace.db.engine import make_engine

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(url: str, revision: str = "head") -> None:
    """Run every migration that the database does not have yet; safe to call again."""
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            config.attributes["connection"] = connection.execution_options(writing=True)
            command.upgrade(config, revision)
    finally:
        engine.dispose()
