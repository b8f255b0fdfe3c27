"""Pooled connections: one whose server went away is replaced before a request meets it."""

import asyncio

import asyncpg
from prefill_control.db import OfNobody
from sqlalchemy import text


async def backend(database):
    """Which process of the server answers, and the connection to it."""
    async with database.transaction(OfNobody()) as session:
        pid = await session.scalar(text("SELECT pg_backend_pid()"))
        raw = await (await session.connection()).get_raw_connection()
        return pid, raw.driver_connection


async def test_a_connection_that_the_server_closed_is_replaced(database, urls):
    first, connection = await backend(database)
    assert (await backend(database))[0] == first
    admin = await asyncpg.connect(urls.admin)
    try:
        assert await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", first)
    finally:
        await admin.close()
    async with asyncio.timeout(30):
        while not connection.is_closed():  # noqa: ASYNC110 (the loop has to read the end)
            await asyncio.sleep(0)
    assert (await backend(database))[0] != first
