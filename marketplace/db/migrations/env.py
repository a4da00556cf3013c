"""Alembic's entry: runs migrations on the connection that `marketplace.db.upgrade` hands over."""

from alembic import context
from sqlmodel import SQLModel

from marketplace.db import tables

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=SQLModel.metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    transaction_per_migration=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()

__all__ = ["tables"]
