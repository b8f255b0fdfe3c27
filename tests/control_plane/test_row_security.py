"""The walls between tenants, over every table that pg_catalog says belongs to tenants."""

import asyncio

import asyncpg
import pytest
from prefill_control.db import OfNobody, OfOneTenant, OfOperator
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

OURS, THEIRS = "ten_ours", "ten_theirs"
TENANT_TABLES = """
    SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity,
           EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid
                   AND a.attname = 'tenant_id' AND NOT a.attisdropped) AS of_tenant
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') ORDER BY 1
"""
COLUMNS = """
    SELECT column_name, data_type, udt_name FROM information_schema.columns
    WHERE table_name = $1 AND is_nullable = 'NO' AND column_default IS NULL
"""
CATALOGUES = {"datacenters", "models", "prices", "alembic_version"}
NOBODYS = {"sign_in_tries"}  # by HMAC of addresses that may not exist
VALUES = {
    "bigint": "1",
    "timestamp with time zone": "now()",
    "ARRAY": "'{}'",
    "bytea": "'\\x00'",
    "jsonb": "'{}'",
}
WALLS = ("permission denied", "row-level security")
REFERENCES = {"model": "'m'", "role": "'viewer'"}


async def fill(urls):
    """One row of each of two tenants in every tenant table, written by the superuser."""
    connection = await asyncpg.connect(urls.admin)
    try:
        for tenant in (OURS, THEIRS):
            await connection.execute(
                "INSERT INTO tenants (id, name) VALUES ($1, $1) ON CONFLICT DO NOTHING", tenant
            )
        await connection.execute(
            "INSERT INTO models (name, fingerprint, tokenizer_fingerprint, numerics_profile,"
            " context_tokens) VALUES ('m', '', '', '', 1) ON CONFLICT DO NOTHING"
        )
        tables = [row["relname"] for row in await connection.fetch(TENANT_TABLES)]
        await connection.execute("SET session_replication_role = replica")  # no foreign keys
        for table in tables:
            if table not in CATALOGUES | NOBODYS | {"tenants"}:
                for tenant in (OURS, THEIRS):
                    await connection.execute(await insert_of(connection, table, tenant))
    finally:
        await connection.close()
    return [table for table in tables if table not in CATALOGUES | NOBODYS]


async def insert_of(connection, table, tenant):
    names, values = [], []
    for name, kind, _ in await connection.fetch(COLUMNS, table):
        names.append(name)
        value = VALUES.get(kind, f"'{name}-{tenant}'")
        values.append(f"'{tenant}'" if name == "tenant_id" else REFERENCES.get(name, value))
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(values)})"


@pytest.fixture(scope="module")
def tables(urls):
    with asyncio.Runner() as runner:
        return runner.run(fill(urls))


async def touched(database, reach, statement):
    """How many rows a statement reached; -1 when the role may not even try."""
    try:
        async with database.transaction(reach) as session:
            done = await session.execute(text(statement))
            count = len(done.all()) if done.returns_rows else done.rowcount
            await session.rollback()
            return count
    except ProgrammingError as error:
        if not any(words in str(error) for words in WALLS):
            raise
        return -1


def owner_of(table):
    return "id" if table == "tenants" else "tenant_id"


def verbs(table, tenant):
    column = owner_of(table)
    return {
        "select": f"SELECT 1 FROM {table} WHERE {column} = '{tenant}'",
        "update": f"UPDATE {table} SET {column} = {column} WHERE {column} = '{tenant}'",
        "delete": f"DELETE FROM {table} WHERE {column} = '{tenant}'",
    }


async def test_every_table_is_a_tenants_or_a_known_catalogue(urls, tables):
    connection = await asyncpg.connect(urls.admin)
    found = await connection.fetch(TENANT_TABLES)
    await connection.close()
    assert {row["relname"] for row in found} - set(tables) == CATALOGUES | NOBODYS
    for row in found:
        walled = row["of_tenant"] or row["relname"] == "tenants"
        assert row["relrowsecurity"] is walled, row["relname"]
        assert row["relforcerowsecurity"] is walled, row["relname"]


async def test_the_app_role_owns_nothing_and_bypasses_nothing(urls):
    connection = await asyncpg.connect(urls.admin)
    for name in ("prefill_app", "prefill_operator", "prefill_owner"):
        role = await connection.fetchrow("SELECT * FROM pg_roles WHERE rolname = $1", name)
        assert not role["rolsuper"]
        assert not role["rolbypassrls"]
    tables = await connection.fetch("SELECT * FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()
    assert {row["tableowner"] for row in tables} == {"prefill_owner"}


async def test_no_verb_reaches_another_tenants_rows(database, tables):
    for table in tables:
        for verb, statement in verbs(table, THEIRS).items():
            reached = await touched(database, OfOneTenant(OURS), statement)
            assert reached <= 0, (table, verb)


async def test_no_row_can_be_written_for_another_tenant(urls, database, tables):
    connection = await asyncpg.connect(urls.admin)
    statements = [
        await insert_of(connection, table, THEIRS) for table in tables if table != "tenants"
    ]
    await connection.close()
    statements.append("INSERT INTO tenants (id, name) VALUES ('ten_new', 'new')")
    for statement in statements:
        assert await touched(database, OfOneTenant(OURS), statement) == -1, statement


async def test_without_a_context_there_are_no_rows(database, tables):
    for table in tables:
        for reach in (OfNobody(), OfOneTenant("")):
            assert await touched(database, reach, f"SELECT 1 FROM {table}") == 0


async def test_the_detector_fires_on_own_rows_and_for_operators(database, tables):
    for table in tables:
        statement = verbs(table, OURS)["select"]
        assert await touched(database, OfOneTenant(OURS), statement) == 1, table
        both = await touched(database, OfOperator(), f"SELECT 1 FROM {table}")
        assert both >= 2, table


async def test_an_operator_who_names_a_tenant_reaches_no_other(database, tables):
    for table in tables:
        named = await touched(database, OfOperator(OURS), f"SELECT 1 FROM {table}")
        assert named == 1, table
        for verb, statement in verbs(table, THEIRS).items():
            assert await touched(database, OfOperator(OURS), statement) <= 0, (table, verb)


async def test_a_context_ends_with_its_transaction(database, tables):
    for _ in range(20):  # the same pooled connection over and over
        assert await touched(database, OfOneTenant(OURS), "SELECT 1 FROM members") == 1
        assert await touched(database, OfNobody(), "SELECT 1 FROM members") == 0
        assert await touched(database, OfOperator(), "SELECT 1 FROM members") == 2


async def test_audit_rows_are_only_ever_added(database, tables):
    for reach in (OfOneTenant(OURS), OfOperator()):
        assert await touched(database, reach, "UPDATE audit_rows SET action = 'x'") == -1
        assert await touched(database, reach, "DELETE FROM audit_rows") == -1
