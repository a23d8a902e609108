"""Alembic's entry: migrates over the connection that :mod:`longseal.catalog.catalog` hands in."""

from __future__ import annotations

from alembic import context

from longseal.catalog.models import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=True,
    version_table="longseal_version",
)
with context.begin_transaction():
    context.run_migrations()
