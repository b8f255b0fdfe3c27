"""The control plane's database: roles, tables, the first operator; safe to call at every start."""

import asyncio
import os
from dataclasses import dataclass, field

from prefill_control.access.first_operator import first_operator, has_operator, is_operator
from prefill_control.access.secrets import OPERATOR_PREFIX, new_text
from prefill_control.db import Database, utc_now
from prefill_migrations.roles import RolePasswords, ensure_database, ensure_roles
from prefill_migrations.run import upgrade

from prefill_stack.platform.database_urls import APP, DATABASE, OWNER, DatabaseUrls, database_urls
from prefill_stack.platform.secrets import PlatformSecrets

OPERATOR_FILE = "operator.credential"


def prepare_database(admin_url: str, secrets: PlatformSecrets) -> DatabaseUrls:
    """Roles, database and tables up to this installation's version."""
    passwords = RolePasswords(secrets.password(OWNER), secrets.password(APP))
    asyncio.run(ensure_roles(admin_url, passwords))
    asyncio.run(ensure_database(admin_url, DATABASE))
    urls = database_urls(admin_url, secrets)
    upgrade(urls.owner)
    return urls


@dataclass(frozen=True)
class OperatorCredential:
    """The first operator's key, empty when somebody else holds it; `fresh`: in force since now."""

    secret: str = field(repr=False)
    fresh: bool


def operator_credential(app_url: str, secrets: PlatformSecrets) -> OperatorCredential:
    """Kept in its file before its proof is committed: a crash in between is finished here later."""

    async def make() -> OperatorCredential:
        database = Database(app_url)
        try:
            return await _operator(database, secrets)
        finally:
            await database.close()

    return asyncio.run(make())


async def _operator(database: Database, secrets: PlatformSecrets) -> OperatorCredential:
    path, pepper = secrets.folder / OPERATOR_FILE, secrets.proofs()
    if not path.exists():
        if await has_operator(database):
            return OperatorCredential("", fresh=False)
        secrets.file(OPERATOR_FILE, new_text(OPERATOR_PREFIX, os.urandom))
    kept = path.read_text(encoding="ascii")
    if await first_operator(database, pepper, utc_now, os.urandom, kept):
        return OperatorCredential(kept, fresh=True)
    if await is_operator(database, pepper, kept):
        return OperatorCredential(kept, fresh=False)
    path.unlink()  # another installation on this database was first: ours never came into force
    return OperatorCredential("", fresh=False)
