"""The database's roles, made once by a superuser or by whoever may create roles.

prefill_owner     owns the tables; only migrations log in as it
prefill_app       what the control plane logs in as: no table of its own, row security always on
prefill_operator  nobody logs in as it; the app becomes it (`SET LOCAL ROLE`) to see every tenant
"""

from __future__ import annotations

from dataclasses import dataclass, field

import asyncpg

OWNER, APP, OPERATOR = "prefill_owner", "prefill_app", "prefill_operator"
PLAIN = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS"


@dataclass(frozen=True)
class RolePasswords:
    """What the two roles that log in are given."""

    owner: str = field(repr=False)
    app: str = field(repr=False)


async def ensure_roles(admin_url: str, passwords: RolePasswords) -> None:
    """Make or correct the roles; safe to call again, and by two processes at once."""
    connection = await asyncpg.connect(admin_url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(7310001)")
            for name in (OWNER, APP, OPERATOR):
                if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", name):
                    await connection.execute(f"CREATE ROLE {name} {PLAIN} NOLOGIN")
            for name, password in ((OWNER, passwords.owner), (APP, passwords.app)):
                quoted = await connection.fetchval("SELECT quote_literal($1::text)", password)
                await connection.execute(f"ALTER ROLE {name} {PLAIN} LOGIN PASSWORD {quoted}")
            await connection.execute(f"GRANT {OPERATOR} TO {APP} WITH INHERIT FALSE, SET TRUE")
    finally:
        await connection.close()


async def ensure_database(admin_url: str, name: str) -> None:
    """Make the database, owned by the owner role, that nobody else may enter unasked."""
    connection = await asyncpg.connect(admin_url)
    try:
        if await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            return
        quoted = await connection.fetchval("SELECT quote_ident($1)", name)
        await connection.execute(f"CREATE DATABASE {quoted} OWNER {OWNER}")
        await connection.execute(f"REVOKE ALL ON DATABASE {quoted} FROM PUBLIC")
        await connection.execute(f"GRANT CONNECT ON DATABASE {quoted} TO {APP}, {OPERATOR}")
    finally:
        await connection.close()
