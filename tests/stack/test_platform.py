"""The platform as `prefill-cloud up` starts it: keys over REST, usage, restarts, nothing left."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import psutil
import pytest
from prefill_cloud import PrefillCloudError
from prefill_cloud.manage import AsyncManagementClient, KeyValues
from prefill_data.metering.record import amount_micros
from prefill_fleet.snapshot import Rates
from prefill_stack import shipped
from prefill_stack.platform.plan import PLACES
from prefill_stack.platform.seed import HIT_MICROS, MISS_MICROS
from prefill_stack.services.postgres import Postgres, PostgresPlan
from prefill_stack.services.redis import Redis, RedisPlan
from prefill_stack.up_folder import CLOUD_FILE, NotRunning, load_access

# Tests are no package: the classes beside them are found by their folder.
sys.path.insert(0, str(Path(__file__).parent))

from whole_platform import HOME, eventually, prompt, remove_services, running

PROCESSES = {"postgres", "redis", "control", "eu-central-worker-0", "eu-central-gateway",
             "us-east-worker-0", "us-east-gateway"}  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory, mqar):
    with running(tmp_path_factory.mktemp("platform"), mqar) as platform:
        yield platform


async def new_key(here, name):
    """A tenant of its own with one key, made over REST."""
    async with here.management() as operator:
        tenant = await operator.tenants.create(name)
        values = KeyValues(name="first", scopes=["prefill", "usage:read"])
        return tenant, await operator.for_tenant(tenant.id).keys.create(values)


async def test_ready_means_that_a_prefill_works(here):
    state = await here.prefill(prompt(1))
    assert state.datacenter == HOME
    assert {kept.part.name for kept in here.keeper.kept} == PROCESSES
    assert all(kept.part.alive and kept.restarts == 0 for kept in here.keeper.kept)
    async with httpx.AsyncClient(base_url=here.platform.api_url, trust_env=False) as http:
        for path in ("/health/live", "/health/ready", "/docs", "/openapi/openapi.json"):
            assert (await http.get(path)).status_code == 200, path


async def test_both_datacenters_take_requests_and_send_on(here):
    for place in PLACES:  # a gateway looks after the others now and then: it may not know yet

        async def served_there(name=place.name):
            return (await here.prefill(prompt(2), datacenters=[name])).datacenter == name

        assert await eventually(served_there)


async def test_a_key_made_over_rest_prefills_and_a_revoked_one_is_refused(here):
    tenant, issued = await new_key(here, "amber")
    secret = issued.secret.text
    state = await eventually(lambda: here.prefill(prompt(3), secret), PrefillCloudError)
    assert state.receipt.tenant == tenant.id
    async with here.management() as operator:
        await operator.for_tenant(tenant.id).keys.revoke(issued.key.id)

    async def refused():
        return await here.refusal(secret)

    assert await eventually(refused) == "KEY_REVOKED"
    assert await here.refusal(here.demo_key) == ""


async def test_a_prefill_becomes_a_row_of_its_tenants_usage(here):
    tenant, issued = await new_key(here, "birch")
    secret = issued.secret.text
    state = await eventually(lambda: here.prefill(prompt(4), secret), PrefillCloudError)
    receipt = state.receipt
    row = await eventually(lambda: row_of(here, secret, receipt.receipt_id))
    rates = Rates(input_miss_micros=MISS_MICROS, input_hit_micros=HIT_MICROS)
    assert row.amount_micros == state.amount_micros == amount_micros(130, 0, rates)
    assert (row.tenant_id, row.key_id) == (tenant.id, issued.key.id)
    assert (row.token_count, row.model, row.datacenter) == (130, shipped.MQAR, HOME)
    assert row.request_id == state.request_id
    async with here.management(secret) as client:
        (total,) = [total async for total in client.usage.list(["tenant", "key"])]
        (record,) = [record async for record in client.usage.requests()]
    assert total.group == {"tenant": tenant.id, "key": issued.key.id}
    assert (total.requests, total.tokens, total.amount_micros) == (1, 130, row.amount_micros)
    assert record.route_reason.startswith(f"{record.datacenter} is ")
    assert record.request_id == state.request_id
    assert receipt.receipt_id not in await here.rows(here.demo_key)


async def row_of(here, key, receipt_id):
    return (await here.rows(key)).get(receipt_id)


async def test_the_secrets_are_private_and_in_no_log(here):
    root = here.platform.plan.directory
    for path in (root / "secrets").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    text = "".join(path.read_text(errors="replace") for path in here.platform.plan.logs.iterdir())
    assert "billed" in text
    for secret in (here.platform.operator, here.demo_key):
        assert secret not in text


@contextmanager
def up(folder, *options):
    """`prefill-cloud up` as a user starts it; what is left of it is killed."""
    command = [sys.executable, "-m", "prefill_stack.cli", "up", "--json", "--directory", folder]
    checkpoint = f"{shipped.MQAR}={shipped.checkpoint(shipped.MQAR)}"
    with open(folder.parent / "up.errors", "w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [*command, "--checkpoint", checkpoint, *options],
            stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        try:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line == "}\n":
                    break
            errors.seek(0)
            assert lines, errors.read()
            yield process, json.loads("".join(lines))
        finally:
            process.kill()
            process.communicate()


def family_of(process):
    """Everything that it started, PostgreSQL's own children included."""
    return psutil.Process(process.pid).children(recursive=True)


def test_a_second_start_finds_its_data_and_nothing_is_left_however_it_ends(tmp_path):
    folder = tmp_path / "here"
    with up(folder) as (process, first):
        assert set(first["processes"]) == PROCESSES
        operator, key = first["operator_credential"], first["api_keys"]["demo"]
        made = asyncio.run(make_tenant(first["api_url"], operator))
        narrowed = asyncio.run(narrow_a_model(first["api_url"], operator))
        family = family_of(process)
        assert len(family) > len(PROCESSES)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0
        assert not [kin for kin in family if kin.is_running()]
        assert not (folder / CLOUD_FILE).exists()
    with up(folder) as (process, second):
        assert second["operator_credential"] is None
        assert second["api_keys"]["demo"] == key
        assert second["control_public_key"] == first["control_public_key"]
        assert made in asyncio.run(tenants_of(second["api_url"], operator))
        assert asyncio.run(model_of(second["api_url"], operator, narrowed)).codecs == ["raw"]
        left = json.loads((folder / CLOUD_FILE).read_text(encoding="utf-8"))
        assert left["operator_credential"] == operator
        family = family_of(process)
        os.kill(process.pid, signal.SIGKILL)
        assert psutil.wait_procs(family, timeout=60)[1] == []
        process.wait()
        with pytest.raises(NotRunning, match=str(process.pid)):
            load_access(folder)
    remove_services(folder)


async def make_tenant(url, operator):
    async with AsyncManagementClient(url, operator) as client:
        return (await client.tenants.create("kept")).id


async def narrow_a_model(url, operator):
    async with AsyncManagementClient(url, operator) as client:
        model = await anext(aiter(client.models.list()))
        values = msgspec.structs.replace(model.values(), codecs=["raw"])
        return (await client.models.update(model.name, values, version=model.version)).name


async def model_of(url, operator, name):
    async with AsyncManagementClient(url, operator) as client:
        return await client.models.read(name)


async def tenants_of(url, operator):
    async with AsyncManagementClient(url, operator) as client:
        return [tenant.id async for tenant in client.tenants.list()]


@pytest.fixture
def services(tmp_path):
    """PostgreSQL and Redis that somebody else runs."""
    found = (Postgres(PostgresPlan(tmp_path / "pg")), Redis(RedisPlan(tmp_path / "redis")))
    for service in found:
        service.start()
    yield found
    for service in found:
        service.destroy()


@pytest.fixture
def on_services(services, tmp_path, mqar):
    postgres, redis = services
    urls = {"database_url": postgres.url(), "redis_url": redis.url("control")}
    with running(tmp_path / "here", mqar, places=PLACES[:1], **urls) as platform:
        yield platform
    assert all(service.alive and service.healthy() for service in services)


async def test_services_by_url_are_used_and_left_alone(on_services):
    names = {kept.part.name for kept in on_services.keeper.kept}
    assert names == {"control", "eu-central-worker-0", "eu-central-gateway"}
    state = await on_services.prefill(prompt(5))
    receipt_id = state.receipt.receipt_id
    await eventually(lambda: row_of(on_services, on_services.demo_key, receipt_id))
