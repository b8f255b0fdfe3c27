"""PostgreSQL and Redis start from their wheels, keep what was written, and leave nothing behind."""

import asyncio
import os
import signal
import stat
import subprocess
import sys

import asyncpg
import psutil
import pytest
import redis
from prefill_stack.errors import ProcessFailed
from prefill_stack.services import account
from prefill_stack.services.account import Account, can_enter, remove_homes, service_account
from prefill_stack.services.postgres import Postgres, PostgresPlan
from prefill_stack.services.redis import Redis, RedisPlan

PARENT = """
import sys, time
from pathlib import Path
from prefill_stack.services.postgres import Postgres, PostgresPlan
from prefill_stack.services.redis import Redis, RedisPlan
folder = Path(sys.argv[1])
services = [Postgres(PostgresPlan(folder, durable=False)), Redis(RedisPlan(folder))]
for service in services:
    service.start()
print(*(service.pid for service in services), flush=True)
time.sleep(600)
"""


@pytest.fixture
def postgres(tmp_path):
    server = Postgres(PostgresPlan(tmp_path / "pg"))
    yield server
    server.destroy()


@pytest.fixture
def redis_server(tmp_path):
    server = Redis(RedisPlan(tmp_path / "redis"))
    yield server
    server.destroy()


def execute(url, *statements):
    async def run():
        connection = await asyncpg.connect(url)
        try:
            return [await connection.fetch(statement) for statement in statements]
        finally:
            await connection.close()

    return asyncio.run(run())[-1]


def test_a_cluster_whose_making_was_cut_off_is_made_anew(postgres):
    fresh = postgres.data.with_name("data.new")
    fresh.mkdir()
    (fresh / "PG_VERSION").write_text("18\n")  # initdb writes it first, long before it is done
    with postgres:
        assert execute(postgres.url(), "SELECT 1 AS one")[0]["one"] == 1
    assert not fresh.exists()


def client_of(server, role, **options):
    return redis.Redis.from_url(server.url(role), decode_responses=True, **options)


def test_postgres_is_durable_and_keeps_what_was_written(postgres):
    postgres.start()
    execute(postgres.url(), "create table kept (n int)", "insert into kept values (7)")
    for name in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
        assert execute(postgres.url(), f"show {name}")[0][0] == "on"
    assert execute(postgres.url(), "show server_version_num")[0][0].startswith("18")
    postgres.stop()
    assert not postgres.alive
    postgres.start()
    assert execute(postgres.url(), "select n from kept")[0]["n"] == 7


def test_postgres_survives_a_kill_without_losing_an_acknowledged_write(postgres):
    postgres.start()
    execute(postgres.url(), "create table kept (n int)", "insert into kept values (8)")
    os.kill(postgres.pid, signal.SIGKILL)
    postgres.stop()
    postgres.start()
    assert execute(postgres.url(), "select n from kept")[0]["n"] == 8


def test_postgres_refuses_a_wrong_password(postgres):
    postgres.start()
    with pytest.raises(asyncpg.InvalidPasswordError):
        execute(postgres.url(password="wrong"), "select 1")


def test_the_data_belongs_to_one_account_alone(postgres, redis_server):
    postgres.start()
    redis_server.start()
    for server in (postgres, redis_server):
        uids = psutil.Process(server.pid).uids()
        assert set(uids) == {service_account().uid}
        assert uids.real != 0
    assert stat.S_IMODE(postgres.data.stat().st_mode) == 0o700
    passwords = list(postgres.plan.directory.glob("*.password"))
    assert passwords
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in passwords)


def test_a_taken_port_is_named(tmp_path, redis_server):
    redis_server.start()
    second = Redis(RedisPlan(tmp_path / "second", port=redis_server.port))
    with pytest.raises(ProcessFailed, match="redis"):
        second.start()
    second.destroy()


def test_redis_keeps_its_data_over_a_restart(redis_server):
    redis_server.start()
    with client_of(redis_server, "control") as client:
        client.set("prefill:snapshot:a", "1")
    redis_server.stop()
    redis_server.start()
    with client_of(redis_server, "control") as client:
        assert client.get("prefill:snapshot:a") == "1"


@pytest.mark.parametrize("key", ["prefill:snapshot:keys", "prefill:epoch:g", "prefill:limits:t"])
def test_a_worker_cannot_write_what_is_not_its_own(redis_server, key):
    redis_server.start()
    with client_of(redis_server, "worker") as worker:
        with pytest.raises(redis.exceptions.NoPermissionError):
            worker.set(key, "forged")
        with pytest.raises(redis.exceptions.NoPermissionError):
            worker.publish("prefill:snapshot", "forged")
        assert worker.set("prefill:fleet:worker:w1", "here")
    with client_of(redis_server, "control") as control:  # the twin: the key can be written
        assert control.set(key, "true")


@pytest.mark.parametrize("role", ["control", "gateway", "worker"])
def test_no_role_reconfigures_or_empties_redis(redis_server, role):
    redis_server.start()
    with client_of(redis_server, role) as client:
        for command in (("FLUSHALL",), ("CONFIG", "GET", "*"), ("ACL", "LIST"), ("SHUTDOWN",)):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*command)


def test_nobody_gets_in_without_a_role(redis_server):
    redis_server.start()
    with (
        redis.Redis(port=redis_server.port) as client,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        client.get("prefill:snapshot:a")


def test_nothing_is_left_after_the_parent_was_killed(tmp_path):
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        try:
            roots = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
            family = [*roots, *(kin for root in roots for kin in root.children(recursive=True))]
        finally:
            parent.kill()
    assert len(family) > 3
    assert psutil.wait_procs(family, timeout=60)[1] == []
    Postgres(PostgresPlan(tmp_path)).destroy()
    Redis(RedisPlan(tmp_path)).destroy()


def test_reach_is_seen_folder_by_folder(tmp_path):
    stranger = Account("stranger", 54321, 54321)
    closed = tmp_path / "closed"
    (closed / "open").mkdir(parents=True)
    closed.chmod(0o700)
    assert not can_enter(closed / "open", stranger)
    assert can_enter(closed / "open", Account("self", os.geteuid(), os.getegid())) or os.geteuid()
    assert can_enter(closed.parent.parents[-1], stranger)


def test_the_homes_of_a_folder_are_removed_and_no_others(tmp_path, monkeypatch):
    monkeypatch.setattr(account, "ROOT_STATE", state := tmp_path / "state")
    labels = {"gone/a/postgres": "0123456789abcdef", "gone/redis": "a" * 16, "kept/redis": "b" * 16,
              "gone/b/redis": "/../../kept"}  # fmt: skip
    for place, label in labels.items():
        folder = (tmp_path / place).parent
        folder.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{place}.id").write_text(label)
    homes = [state / "postgres-0123456789abcdef", state / f"redis-{'a' * 16}"]
    for home in (*homes, kept := state / f"redis-{'b' * 16}"):
        (home / "data").mkdir(parents=True)
    remove_homes(tmp_path / "gone")
    assert [home.exists() for home in (*homes, kept)] == [False, False, True]
    assert (tmp_path / "kept").exists()
