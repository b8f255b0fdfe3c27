"""One PostgreSQL cluster per test process, one migrated template, a fresh copy for who asks."""

import asyncio
import itertools
import sys
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from prefill_control.db import Database
from prefill_control.logs import configure_logging
from prefill_migrations.roles import APP, OWNER, RolePasswords, ensure_database, ensure_roles
from prefill_migrations.run import upgrade
from prefill_stack.services.postgres import Postgres, PostgresPlan

# Tests are no package: the class beside them is found by its folder.
sys.path.insert(0, str(Path(__file__).parent))

from control_api import ControlApi

OWNER_PASSWORD, APP_PASSWORD = "owner-password", "app-password"
TEMPLATE = "prefill_template"


@dataclass(frozen=True)
class TestDatabase:
    """The URLs of one database, by who logs in."""

    __test__ = False
    admin: str
    owner: str
    app: str


class Cluster:
    """Makes databases; each is a copy of the migrated template."""

    def __init__(self, server):
        self.server = server
        self._numbers = itertools.count()
        self._run(self._prepare())
        upgrade(self.urls(TEMPLATE).owner)

    def urls(self, name):
        return TestDatabase(
            self.server.url(name),
            self.server.url(name, OWNER, OWNER_PASSWORD),
            self.server.url(name, APP, APP_PASSWORD),
        )

    def empty(self):
        """A database without tables."""
        name = f"empty_{next(self._numbers)}"
        self._run(ensure_database(self.server.url(), name))
        return self.urls(name)

    def copy(self):
        """A migrated database without rows of tenants."""
        name = f"copy_{next(self._numbers)}"
        self._run(self._copy(name))
        return self.urls(name)

    async def _prepare(self):
        await ensure_roles(self.server.url(), RolePasswords(OWNER_PASSWORD, APP_PASSWORD))
        await ensure_database(self.server.url(), TEMPLATE)

    async def _copy(self, name):
        connection = await asyncpg.connect(self.server.url())
        try:
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} OWNER {OWNER}")
        finally:
            await connection.close()

    @staticmethod
    def _run(coroutine):
        with asyncio.Runner() as runner:
            return runner.run(coroutine)


@pytest.fixture(scope="session", autouse=True)
def plain_logs():
    """As in production: the console's tracebacks with locals cost seconds each."""
    configure_logging()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    plan = PostgresPlan(tmp_path_factory.mktemp("postgres"), durable=False)
    server = Postgres(plan)
    server.start()
    yield Cluster(server)
    server.destroy()


@pytest.fixture(scope="module")
def urls(cluster):
    """One migrated database for a module: its tests use tenants of their own."""
    return cluster.copy()


@pytest.fixture
async def database(urls):
    database = Database(urls.app)
    yield database
    await database.close()


@pytest.fixture
async def api(urls):
    """The application on the module's database."""
    api = ControlApi(urls.app)
    yield api
    await api.close()
