"""First secrets survive a crash at any step: kept before they are in force, or replaced."""

import asyncio
import sys
from pathlib import Path

import pytest
from prefill_cloud.manage import ManagementClient
from prefill_control.access.first_operator import first_operator
from prefill_control.db import Database, utc_now
from prefill_stack.devca import private_directory
from prefill_stack.platform.database import OPERATOR_FILE, operator_credential
from prefill_stack.platform.secrets import PlatformSecrets
from prefill_stack.platform.seed import seed_tenant

# Tests are no package: the class beside them is found by its folder.
sys.path.insert(0, str(Path(__file__).parent))

from test_management_commands import Served


class Killed(Exception):
    """Stands for a `kill -9`: what follows does not happen."""


class DiesOnceKept(PlatformSecrets):
    """Ends the start right after the credential's file is there."""

    def file(self, name, content):
        super().file(name, content)
        raise Killed


@pytest.fixture
def fresh(cluster, tmp_path):
    """A migrated database without any key, and an installation's folder."""
    return cluster.copy().app, private_directory(tmp_path / "secrets")


@pytest.fixture(scope="module")
def served(cluster):
    served = Served(cluster.copy().app)
    yield served
    served.close()


def committed(app_url, secrets, kept=""):
    """What the first start commits, without a word to any file."""

    async def commit():
        database = Database(app_url)
        try:
            pepper = secrets.proofs()
            return await first_operator(database, pepper, utc_now, lambda n: bytes(n), kept)
        finally:
            await database.close()

    return asyncio.run(commit())


def test_a_credential_that_was_kept_and_not_committed_comes_into_force(fresh):
    app_url, folder = fresh
    with pytest.raises(Killed):
        operator_credential(app_url, DiesOnceKept(folder))
    kept = (folder / OPERATOR_FILE).read_text()
    found = operator_credential(app_url, PlatformSecrets(folder))
    assert (found.secret, found.fresh) == (kept, True)
    again = operator_credential(app_url, PlatformSecrets(folder))
    assert (again.secret, again.fresh) == (kept, False)


def test_a_crash_after_the_commit_loses_nothing(fresh):
    app_url, folder = fresh
    secrets = PlatformSecrets(folder)
    with pytest.raises(Killed):
        operator_credential(app_url, DiesOnceKept(folder))
    kept = (folder / OPERATOR_FILE).read_text()
    assert committed(app_url, secrets, kept) == kept
    assert operator_credential(app_url, secrets).secret == kept


def test_the_other_order_would_lose_it(fresh):
    app_url, folder = fresh
    assert committed(app_url, PlatformSecrets(folder))  # and the process died: no file
    assert operator_credential(app_url, PlatformSecrets(folder)).secret == ""


def test_a_credential_that_another_installation_forestalled_is_removed(fresh, tmp_path):
    app_url, folder = fresh
    with pytest.raises(Killed):
        operator_credential(app_url, DiesOnceKept(folder))
    other = PlatformSecrets(private_directory(tmp_path / "other"))
    assert operator_credential(app_url, other).fresh
    found = operator_credential(app_url, PlatformSecrets(folder))
    assert (found.secret, (folder / OPERATOR_FILE).exists()) == ("", False)


def seeded(served, tenant, key_name="up 1"):
    with ManagementClient(served.url, served.operator.secret) as client:
        return seed_tenant(client, tenant, key_name)


def status(served, secret):
    with ManagementClient(served.url, served.operator.secret) as client:
        return client.keys.check(secret).status


def test_a_tenants_key_that_a_crash_lost_is_replaced(served):
    lost = seeded(served, "lost its key")  # and the process died before any file was written
    found = seeded(served, "lost its key")
    assert found != lost
    assert (status(served, lost), status(served, found)) == ("EXPIRED", "VALID")
    third = seeded(served, "lost its key")
    assert (status(served, found), status(served, third)) == ("EXPIRED", "VALID")


def test_the_key_of_another_installation_stays(served):
    theirs = seeded(served, "shared", "up 1")
    ours = seeded(served, "shared", "up 2")
    assert status(served, theirs) == status(served, ours) == "VALID"


def test_a_tenant_without_a_key_gets_one(served):
    with ManagementClient(served.url, served.operator.secret) as client:
        made = client.tenants.create("bare")  # and the process died
        secret = seed_tenant(client, "bare", "up 1")
        assert client.keys.check(secret).tenant_id == made.id
