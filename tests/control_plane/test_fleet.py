"""The fleet as its heartbeats tell: signed ones are believed, silent processes age out."""

import datetime as dt
from dataclasses import replace

import pytest
from control_api import ControlApi
from prefill_control.fleet.service import FORGET_MS, fleet_view
from prefill_data.heartbeats import Herald, installed_version
from prefill_fleet.credential import (
    Credential,
    GatewayCertificate,
    Role,
    issue_gateway_certificate,
    open_sealed,
    seal,
)
from prefill_fleet.heartbeat import STALE_MS, Heartbeat, LinkEstimate, seal_heartbeat
from prefill_fleet.names import GATEWAY_BEATS_KEY, WORKER_BEATS_KEY
from prefill_stack.services.redis import Redis, RedisPlan
from prefill_wire.certificate import WorkerCertificate, issue_certificate
from prefill_wire.errors import WireError
from prefill_wire.receipt import verify_receipt
from prefill_wire.signing import SigningKey
from redis.asyncio import Redis as Client
from redis.exceptions import NoPermissionError

CONTROL, WORKER, GATEWAY = (SigningKey.from_seed(letter * 32) for letter in (b"c", b"w", b"g"))
STRANGER = SigningKey.from_seed(b"x" * 32)
NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
NOW_MS = int(NOW.timestamp() * 1000)


@pytest.fixture
async def client(redis_server):
    async with Client.from_url(redis_server.url("control")) as client:
        await client.delete(WORKER_BEATS_KEY, GATEWAY_BEATS_KEY)
        yield client


def worker_credential(name="w1", control=CONTROL, key=WORKER, until_ms=NOW_MS + 10**9):
    certificate = WorkerCertificate(
        worker_id=name, datacenter="fra", public_key=WORKER.public_bytes,
        not_before_ms=0, not_after_ms=until_ms,
    )  # fmt: skip
    return Credential(Role.WORKER, issue_certificate(control, certificate), key)


def gateway_credential(name="g1"):
    certificate = GatewayCertificate(
        gateway_id=name, datacenter="fra", public_key=GATEWAY.public_bytes,
        not_before_ms=0, not_after_ms=NOW_MS + 10**9,
    )  # fmt: skip
    return Credential(Role.GATEWAY, issue_gateway_certificate(CONTROL, certificate), GATEWAY)


def beat(name="w1", at_ms=NOW_MS, **fields):
    given = {"datacenter": "fra", "version": "1", "started_at_ms": 0, "endpoint": "e:1", **fields}
    return Heartbeat(name=name, at_ms=at_ms, **given)


async def look(client, later_ms=0):
    now = NOW + dt.timedelta(milliseconds=later_ms)
    return await fleet_view(client, CONTROL.public_bytes, now)


async def test_workers_and_gateways_with_what_they_told(redis_server, client):
    told = {
        "worker": (WORKER_BEATS_KEY, worker_credential(), beat(attempts_in_flight=3,
                   memory_used_bytes=5, memory_cap_bytes=9, models=("kimi",))),
        "gateway": (GATEWAY_BEATS_KEY, gateway_credential(), beat("g1", live_workers=1,
                    links=(LinkEstimate(to="iad", live=True, rtt_ms=80.5),))),
    }  # fmt: skip
    for role, (key, credential, made) in told.items():
        async with Client.from_url(redis_server.url(role)) as own:
            await Herald(own, key, credential, lambda made=made: made).tell()
    view = await look(client, STALE_MS)
    assert [(each.role, each.beat, each.live) for each in view.processes] == [
        (Role.GATEWAY, told["gateway"][2], True),
        (Role.WORKER, told["worker"][2], True),
    ]
    assert view.refused == 0


async def test_who_falls_silent_is_stale_then_forgotten(client):
    await client.hset(WORKER_BEATS_KEY, "w1", seal_heartbeat(worker_credential(), beat()))
    assert [p.live for p in (await look(client, STALE_MS)).processes] == [True]
    assert [p.live for p in (await look(client, STALE_MS + 1)).processes] == [False]
    assert len((await look(client, FORGET_MS)).processes) == 1
    assert (await look(client, FORGET_MS + 1)).processes == ()
    assert not await client.exists(WORKER_BEATS_KEY)


FORGED = {
    "another control plane": seal_heartbeat(worker_credential(control=STRANGER), beat()),
    "another key": seal_heartbeat(worker_credential(key=STRANGER), beat()),
    "another process": seal_heartbeat(worker_credential("w2"), beat()),
    "an ended certificate": seal_heartbeat(worker_credential(until_ms=NOW_MS), beat()),
    "another datacenter": seal_heartbeat(worker_credential(), beat(datacenter="iad")),
    "a gateway among workers": seal_heartbeat(gateway_credential(), beat("g1")),
    "the future": seal_heartbeat(worker_credential(), beat(at_ms=NOW_MS + 10**6)),
    "another domain": seal(worker_credential(), "other", b"{}"),
    "nothing": b"",
    "junk": b"\x00" * 100,
    "too much": b"\x81" * (1 << 20),
    "more than was signed": seal_heartbeat(worker_credential(), beat()) + b"\x00",
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
async def test_what_its_process_did_not_sign_is_not_believed(client, forged):
    await client.hset(WORKER_BEATS_KEY, "w1", forged)
    view = await look(client)
    assert (view.processes, view.refused) == ((), 1)


async def test_a_good_beat_in_anothers_place_is_not_believed(client):
    await client.hset(WORKER_BEATS_KEY, "w9", seal_heartbeat(worker_credential(), beat()))
    assert (await look(client)).refused == 1


async def test_a_worker_cannot_speak_for_gateways(redis_server):
    async with Client.from_url(redis_server.url("worker")) as worker:
        with pytest.raises(NoPermissionError):
            await worker.hset(GATEWAY_BEATS_KEY, "g1", b"")


def test_a_gateways_signature_is_no_workers():
    """Neither as an envelope that says so, nor as a receipt."""
    credential = gateway_credential()
    false = Credential(Role.WORKER, credential.certificate, credential.key)
    with pytest.raises(WireError):
        open_sealed(CONTROL.public_bytes, "heartbeat", seal(false, "heartbeat", b""), NOW_MS, 100)
    with pytest.raises(WireError):
        verify_receipt(GATEWAY.public_bytes, seal(credential, "usage receipt", b""))
    good = seal(credential, "heartbeat", b"body")
    identity, body = open_sealed(CONTROL.public_bytes, "heartbeat", good, NOW_MS, 100)
    assert (identity.role, identity.name, body) == (Role.GATEWAY, "g1", b"body")


async def test_operators_see_the_fleet_over_rest_and_hear_when_redis_is_away(urls, tmp_path):
    server = Redis(RedisPlan(tmp_path / "own"))
    server.start()
    api = ControlApi(urls.app, redis_url=server.url("control"))
    api.now = NOW
    operator = await api.operator()
    names = {WORKER_BEATS_KEY: (worker_credential(), beat(models=("kimi",))),
             GATEWAY_BEATS_KEY: (gateway_credential(), beat("g1"))}  # fmt: skip
    certified = api.settings.control_public_key
    assert certified != CONTROL.public_bytes
    async with Client.from_url(server.url("control")) as client:
        for key, (credential, made) in names.items():
            await client.hset(key, made.name, seal_heartbeat(credential, made))
    assert (await api.send(operator, "GET", "/v1/fleet")).json()["items"] == []  # a stranger's
    api.settings = replace(api.settings, control_seed=CONTROL.seed())
    api.app.state["settings"] = api.settings
    items = (await api.send(operator, "GET", "/v1/fleet?role=worker")).json()["items"]
    assert [(each["name"], each["state"], each["models"]) for each in items] == [
        ("w1", "live", ["kimi"])
    ]
    assert len((await api.send(operator, "GET", "/v1/fleet?datacenter=fra")).json()["items"]) == 2
    assert (await api.send(operator, "GET", "/v1/fleet?datacenter=iad")).json()["items"] == []
    server.destroy()
    away = await api.send(operator, "GET", "/v1/fleet")
    assert (away.status_code, away.json()["code"]) == (503, "UNAVAILABLE")
    assert int(away.headers["Retry-After"]) > 0
    await api.close()


def test_the_version_is_the_installed_one():
    assert installed_version()[0].isdigit()
