"""Alembic's entry: one connection, a lock timeout, one transaction per version."""

from __future__ import annotations

import asyncio

from alembic import context
from prefill_control.db import async_url
from prefill_control.tables import metadata
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

LOCK_TIMEOUT = "5s"  # a version that waits longer for a table would stall every request behind it


def _run(connection: Connection) -> None:
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transaction_per_migration=True,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def _connect_and_run(url: str) -> None:
    engine = create_async_engine(async_url(url), poolclass=pool.NullPool, connect_args={"dsn": url})
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_run)
    finally:
        await engine.dispose()


asyncio.run(_connect_and_run(context.config.attributes["url"]))
