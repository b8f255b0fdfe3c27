"""What gateways are told is what the tables say: signed, numbered upwards, soon after a change."""

import asyncio
import datetime as dt

import asyncpg
import pytest
from prefill_control.db import utc_now
from prefill_control.snapshots.service import Publisher
from prefill_control.snapshots.store import SnapshotStore
from prefill_control.snapshots.task import keep_published
from prefill_fleet.names import BEAT_KEY, CHANGED_CHANNEL, ROLL_KEY, tenant_key
from prefill_fleet.snapshot import VALID_MS, open_beat, open_roll, open_tenant
from prefill_wire.errors import IntegrityError
from prefill_wire.signing import SigningKey
from redis.asyncio import Redis as Client
from redis.exceptions import NoPermissionError

CONTROL = SigningKey.from_seed(b"c" * 32)
ROWS = """
    INSERT INTO datacenters (name, jurisdiction, endpoint, state) VALUES
      ('fra', 'EU', 'fra:7070', 'active'), ('iad', 'US', 'iad:7070', 'cordoned');
    INSERT INTO models (name, fingerprint, tokenizer_fingerprint, numerics_profile,
      context_tokens, restricted) VALUES ('open', 'f', 't', 'fp32', 1024, false),
      ('secret', 'f', 't', 'fp32', 1024, true);
    INSERT INTO prices (id, model, valid_from, input_miss_micros, input_hit_micros) VALUES
      ('p2', 'open', '2030-01-01Z', 900, 90), ('p1', 'open', '2020-01-01Z', 1000, 100);
    INSERT INTO tenants (id, name) VALUES ('ten_a', 'a'), ('ten_b', 'b');
    INSERT INTO api_keys (id, tenant_id, name, prefix, last4, key_hash, scopes, addresses,
      created_by) VALUES ('key_a', 'ten_a', 'n', 'pck', 'xxxx', 'aa', '{prefill}',
      '{10.0.0.0/8}', 'm'), ('key_r', 'ten_a', 'r', 'pck', 'xxxx', 'bb', '{usage:read}', '{}',
      'm');
    INSERT INTO limits (id, tenant_id, key_id, requests_per_second, requests_burst) VALUES
      ('l1', 'ten_a', NULL, 100, 200), ('l2', 'ten_a', 'key_a', 5, 10);
    INSERT INTO residencies (id, tenant_id, jurisdictions) VALUES ('r1', 'ten_a', '{EU}');
    INSERT INTO datacenter_preferences (id, tenant_id, wishes, deny, fallback) VALUES
      ('d1', 'ten_a', '{fra}', '{iad}', false);
    INSERT INTO model_grants (id, tenant_id, model) VALUES ('g1', 'ten_a', 'secret');
    INSERT INTO price_overrides (id, tenant_id, model, valid_from, valid_until,
      input_miss_micros, input_hit_micros) VALUES ('o1', 'ten_a', 'open', '2025-01-01Z',
      '2035-01-01Z', 500, 50);
"""


@pytest.fixture(scope="module")
def filled(urls):
    async def fill():
        connection = await asyncpg.connect(urls.admin)
        await connection.execute(ROWS)
        await connection.close()

    with asyncio.Runner() as runner:
        runner.run(fill())
    return urls


@pytest.fixture
async def client(redis_server):
    client = Client.from_url(redis_server.url("control"))
    async for name in client.scan_iter("prefill:*"):
        await client.delete(name)
    yield client
    await client.aclose()


@pytest.fixture
def publisher(filled, database, client):
    return Publisher(database, SnapshotStore(client, CONTROL), utc_now)


async def execute(urls, statement):
    connection = await asyncpg.connect(urls.admin)
    await connection.execute(statement)
    await connection.close()


async def read(client):
    beat = open_beat(CONTROL.public_bytes, await client.get(BEAT_KEY))
    return beat, open_roll(await client.get(ROLL_KEY), beat.roll_digest)


async def entry_of(client, tenant):
    _, roll = await read(client)
    return open_tenant(await client.get(tenant_key(tenant)), tenant, roll.tenants[tenant])


async def test_everything_that_a_gateway_decides_by(publisher, client):
    await publisher.publish()
    _, roll = await read(client)
    assert [(p.name, p.jurisdiction, p.active) for p in roll.places] == [
        ("fra", "EU", True),
        ("iad", "US", False),
    ]
    assert [(m.name, m.restricted) for m in roll.models] == [("open", False), ("secret", True)]
    listed = roll.models[0]
    assert (listed.fingerprint, listed.tokenizer_fingerprint) == ("f", "t")
    assert (listed.numerics_profile, listed.context_tokens, listed.codecs) == ("fp32", 1024, ())
    spans = listed.prices
    assert [span.rates.input_miss_micros for span in spans] == [1000, 900]
    entry = await entry_of(client, "ten_a")
    assert entry.state == "active"
    assert [(k.key_id, k.proof, k.may_prefill) for k in entry.keys] == [
        ("key_a", "aa", True),
        ("key_r", "bb", False),
    ]
    assert entry.keys[0].addresses == ("10.0.0.0/8",)
    assert (entry.limits.requests_per_second, entry.keys[0].limits.requests_burst) == (100, 10)
    assert entry.jurisdictions == ("EU",)
    assert (entry.preference.wishes, entry.preference.deny) == (("fra",), ("iad",))
    assert not entry.preference.fallback
    assert entry.granted_models == ("secret",)
    assert entry.overrides["open"][0].rates.input_hit_micros == 50


async def test_versions_rise_and_a_renewal_keeps_the_content(publisher, client):
    first = await publisher.publish()
    renewed = await publisher.renew()
    assert renewed.version > first.version
    assert renewed.roll_digest == first.roll_digest
    assert renewed.valid_until_ms == renewed.issued_at_ms + VALID_MS
    assert (await read(client))[0] == renewed


async def test_versions_rise_when_redis_and_the_clock_went_back(filled, database, client):
    store = SnapshotStore(client, CONTROL)
    now = await Publisher(database, store, utc_now).publish()
    await client.delete(BEAT_KEY, ROLL_KEY)
    past = Publisher(database, store, lambda: utc_now() - dt.timedelta(days=30))
    assert (await past.renew()).version > now.version


async def test_a_change_touches_its_tenant_alone(filled, publisher, client):
    await publisher.publish()
    await client.set(tenant_key("ten_b"), b"left alone")
    await execute(filled, "UPDATE tenants SET state = 'suspended' WHERE id = 'ten_a'")
    await publisher.publish(["ten_a"])
    assert (await entry_of(client, "ten_a")).state == "suspended"
    assert await client.get(tenant_key("ten_b")) == b"left alone"
    await publisher.publish()  # the whole, which heals what somebody else wrote
    assert (await entry_of(client, "ten_b")).tenant == "ten_b"
    await execute(filled, "UPDATE tenants SET state = 'active' WHERE id = 'ten_a'")


async def test_what_is_published_and_not_ours_is_replaced(publisher, client):
    await publisher.publish()
    stranger = SnapshotStore(client, SigningKey.from_seed(b"x" * 32))
    assert await stranger.held() is None
    await client.set(BEAT_KEY, b"\x00" * 100)
    await publisher.publish(["ten_a"])
    _, roll = await read(client)
    assert {"ten_a", "ten_b"} <= set(roll.tenants)


async def test_bytes_that_a_digest_does_not_name_are_refused(publisher, client):
    await publisher.publish()
    beat, roll = await read(client)
    good = await client.get(tenant_key("ten_a"))
    open_tenant(good, "ten_a", roll.tenants["ten_a"])
    with pytest.raises(IntegrityError):
        open_tenant(good + b"\x00", "ten_a", roll.tenants["ten_a"])
    with pytest.raises(IntegrityError):
        open_tenant(good, "ten_b", roll.tenants["ten_b"])
    with pytest.raises(IntegrityError):
        open_roll(good, beat.roll_digest)


async def next_message(listener):
    """The next word on the channel."""
    while True:
        message = await listener.get_message(ignore_subscribe_messages=True, timeout=5)
        if message is not None:
            return message


async def until(client, listener, wanted):
    """Look again at every word, until what is published is as wanted."""
    async with asyncio.timeout(10):
        while True:
            if await client.exists(BEAT_KEY) and wanted(await entry_of(client, "ten_a")):
                return
            await next_message(listener)


async def test_a_committed_change_is_published_by_itself(filled, publisher, client):
    listener = client.pubsub()
    await listener.subscribe(CHANGED_CHANNEL)
    task = asyncio.create_task(keep_published(publisher, filled.app))
    await until(client, listener, lambda entry: not entry.keys[0].revoked)
    await execute(filled, "UPDATE api_keys SET state = 'revoked' WHERE id = 'key_a'")
    await until(client, listener, lambda entry: entry.keys[0].revoked)
    await execute(filled, "UPDATE api_keys SET state = 'active' WHERE id = 'key_a'")
    await until(client, listener, lambda entry: not entry.keys[0].revoked)
    task.cancel()
    await listener.aclose()


async def test_changes_are_heard_again_after_the_connection_broke(filled, publisher, client):
    listener = client.pubsub()
    await listener.subscribe(CHANGED_CHANNEL)
    task = asyncio.create_task(keep_published(publisher, filled.app))
    await until(client, listener, lambda entry: True)
    await execute(
        filled,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'prefill_app'"
        " AND datname = current_database()",
    )
    await execute(filled, "UPDATE api_keys SET state = 'revoked' WHERE id = 'key_a'")
    await until(client, listener, lambda entry: entry.keys[0].revoked)
    await execute(filled, "UPDATE api_keys SET state = 'active' WHERE id = 'key_a'")
    await until(client, listener, lambda entry: not entry.keys[0].revoked)
    task.cancel()
    await listener.aclose()


async def test_a_worker_reaches_neither_keys_nor_epochs(redis_server, publisher, client):
    await publisher.publish()
    worker = Client.from_url(redis_server.url("worker"))
    for name in (BEAT_KEY, ROLL_KEY, tenant_key("ten_a"), "prefill:epoch:gateway-0"):
        with pytest.raises(NoPermissionError):
            await worker.set(name, b"forged")
        with pytest.raises(NoPermissionError):
            await worker.get(name)
    with pytest.raises(NoPermissionError):
        await worker.publish(CHANGED_CHANNEL, b"1")
    with pytest.raises(NoPermissionError):
        await worker.config_get("*")
    assert await worker.set("prefill:fleet:worker:own", b"allowed")
    await worker.aclose()
