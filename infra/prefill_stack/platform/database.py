"""The control plane's database: roles, tables, the first operator; safe to call at every start."""

import asyncio
import os
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from prefill_control.access.first_operator import first_operator
from prefill_control.access.secrets import Pepper
from prefill_control.db import Database, utc_now
from prefill_migrations.roles import APP, OWNER, RolePasswords, ensure_database, ensure_roles
from prefill_migrations.run import upgrade

from prefill_stack.platform.secrets import PlatformSecrets

DATABASE = "prefill"


@dataclass(frozen=True)
class DatabaseUrls:
    """Who migrates and who serves; both hold passwords."""

    owner: str
    app: str


def prepare_database(admin_url: str, secrets: PlatformSecrets) -> DatabaseUrls:
    """Roles, database and tables up to this installation's version."""
    passwords = RolePasswords(secrets.password(OWNER), secrets.password(APP))
    asyncio.run(ensure_roles(admin_url, passwords))
    asyncio.run(ensure_database(admin_url, DATABASE))
    urls = DatabaseUrls(
        _url(admin_url, OWNER, passwords.owner), _url(admin_url, APP, passwords.app)
    )
    upgrade(urls.owner)
    return urls


def operator_credential(app_url: str, secrets: PlatformSecrets) -> str | None:
    """The first operator's key on the first start; None when there is one already."""

    async def make() -> str | None:
        database = Database(app_url)
        try:
            pepper = Pepper(secrets.pepper.read_bytes())
            return await first_operator(database, pepper, utc_now, os.urandom)
        finally:
            await database.close()

    return asyncio.run(make())


def _url(admin_url: str, user: str, password: str) -> str:
    """The same server, another user, the platform's database."""
    parts = urlsplit(admin_url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, f"{user}:{password}@{host}", f"/{DATABASE}", parts.query, ""))
