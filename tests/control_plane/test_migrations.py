"""Versions go up and down, match the models, and never wait long for a lock."""

import asyncio

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from prefill_control.db import async_url
from prefill_control.tables import metadata
from prefill_migrations.run import configuration, downgrade, newest, upgrade
from sqlalchemy import Column, MetaData, Table, Text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

VERSIONS = [s.revision for s in ScriptDirectory.from_config(configuration()).walk_revisions()]
SHAPE = """
    SELECT table_name, column_name, data_type, is_nullable, column_default
    FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL
    SELECT relname, tgname, pg_get_triggerdef(t.oid), '', ''
    FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid WHERE NOT tgisinternal
    UNION ALL
    SELECT tablename, indexname, indexdef, '', '' FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL
    SELECT proname, prosrc, proacl::text, '', '' FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT sequencename, '', '', '', '' FROM pg_sequences WHERE schemaname = 'public'
    ORDER BY 1, 2
"""
CHECKS = """
    SELECT conname FROM pg_constraint
    WHERE contype = 'c' AND connamespace = 'public'::regnamespace
"""


def rows(url, query):
    async def run():
        connection = await asyncpg.connect(url)
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    return asyncio.run(run())


def drift(url, target):
    async def run():
        engine = create_async_engine(async_url(url))
        async with engine.connect() as connection:
            found = await connection.run_sync(
                lambda sync: compare_metadata(
                    MigrationContext.configure(
                        sync, opts={"compare_type": True, "compare_server_default": True}
                    ),
                    target,
                )
            )
        await engine.dispose()
        return found

    return asyncio.run(run())


def test_no_drift_between_models_and_database(urls):
    assert drift(urls.owner, metadata) == []


def test_the_drift_detector_fires(urls):
    changed = MetaData()
    for table in metadata.tables.values():
        table.to_metadata(changed)
    Table("unmigrated", changed, Column("id", Text, primary_key=True))
    changed.tables["tenants"].append_column(Column("unmigrated", Text))
    assert {entry[0] for entry in drift(urls.owner, changed)} == {"add_table", "add_column"}


def test_every_check_of_the_models_is_in_the_database(urls):
    wanted = {
        str(check.name)
        for table in metadata.tables.values()
        for check in table.constraints
        if type(check).__name__ == "CheckConstraint"
    }
    assert wanted == {name for (name,) in rows(urls.owner, CHECKS)}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_taken_back_and_applied_again_gives_the_same_shape(cluster, version):
    url = cluster.empty().owner
    upgrade(url, version)
    before = rows(url, SHAPE)
    downgrade(url, "-1")
    assert rows(url, SHAPE) != before
    upgrade(url, version)
    assert rows(url, SHAPE) == before


def test_all_the_way_down_leaves_nothing(cluster):
    url = cluster.empty().owner
    upgrade(url)
    assert rows(url, "SELECT version_num FROM alembic_version") == [(newest(),)]
    downgrade(url)
    assert {name for name, *_ in rows(url, SHAPE)} == {"alembic_version"}


async def test_a_version_gives_up_when_a_table_stays_locked(cluster, monkeypatch):
    url = (await asyncio.to_thread(cluster.copy)).owner
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        await connection.execute("LOCK TABLE usage_hours IN ACCESS SHARE MODE")
        with pytest.raises(DBAPIError, match="lock timeout"):
            await asyncio.to_thread(downgrade, url, "0002")
    await asyncio.to_thread(downgrade, url, "0002")  # the twin: without the lock it goes through
    await connection.close()
