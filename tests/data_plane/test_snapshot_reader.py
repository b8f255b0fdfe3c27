"""A gateway follows the control plane within seconds, believes nothing else, and stops at 60 s."""

import asyncio

import pytest
from prefill_control.snapshots.store import SnapshotStore
from prefill_data.gateway import snapshot_feed
from prefill_data.redis_client import connect
from prefill_fleet.names import BEAT_KEY, ROLL_KEY, tenant_key
from prefill_fleet.snapshot import (
    VALID_MS,
    LimitNumbers,
    Roll,
    digest_of,
    encode_part,
)
from prefill_stack.services.redis import Redis, RedisPlan
from redis.asyncio import Redis as Client
from snapshot_scene import CONTROL, SECRET, START_MS, STRANGER, S, Scene, entry, key, proof


@pytest.fixture
async def scene(redis_server):
    control = Client.from_url(redis_server.url("control"))
    gateway = Client.from_url(redis_server.url("gateway"))
    async for name in control.scan_iter("prefill:*"):
        await control.delete(name)
    yield Scene(control, gateway)
    await control.aclose()
    await gateway.aclose()


async def test_before_anything_came_nobody_gets_in_and_nobody_is_called_unknown(scene):
    await scene.refresh()
    assert scene.code() is S.NETWORK_UNAVAILABLE


async def test_a_published_key_gets_in_and_a_revoked_one_does_not(scene):
    await scene.publish(entry())
    await scene.refresh()
    assert scene.code() is S.OK
    assert scene.code("pck_other") is S.KEY_NOT_FOUND
    await scene.publish(entry(keys=(key(revoked=True),)))
    await scene.refresh()
    assert scene.code() is S.KEY_REVOKED


@pytest.mark.parametrize(
    ("changes", "tenant", "code"),
    [
        ({"expires_at_ms": START_MS}, {}, S.KEY_EXPIRED),
        ({"expires_at_ms": START_MS + 1}, {}, S.OK),
        ({"may_prefill": False}, {}, S.PERMISSION_DENIED),
        ({"addresses": ("192.168.0.0/16",)}, {}, S.PERMISSION_DENIED),
        ({"addresses": ("10.0.0.0/8",)}, {}, S.OK),
        ({}, {"state": "suspended"}, S.TENANT_SUSPENDED),
        ({}, {"state": "closed"}, S.KEY_REVOKED),
        ({"revoked": True}, {"state": "suspended"}, S.KEY_REVOKED),
    ],
)
async def test_every_status_of_a_key(scene, changes, tenant, code):
    await scene.publish(entry(keys=(key(**changes),), **tenant))
    await scene.refresh()
    assert scene.code() is code


async def test_partitioned_entries_hold_for_sixty_seconds_and_no_longer(scene):
    await scene.publish(entry())
    await scene.refresh()
    scene.now_ms += VALID_MS - 1
    assert scene.code() is S.OK
    scene.now_ms += 1
    assert scene.code() is S.NETWORK_UNAVAILABLE
    assert scene.code("pck_other") is S.NETWORK_UNAVAILABLE  # nobody knows
    await scene.store.renew(scene.beat(scene.last.roll_digest))
    await scene.refresh()
    assert scene.code() is S.OK


async def test_an_older_beat_is_refused_and_the_last_good_one_stays(scene):
    await scene.publish(entry())
    old = {name: await scene.client.get(name)
           for name in (BEAT_KEY, ROLL_KEY, tenant_key("acme"))}  # fmt: skip
    await scene.publish(entry(keys=()))
    await scene.refresh()
    for name, value in old.items():
        await scene.client.set(name, value)
    assert await scene.refresh() == scene.version
    assert scene.code() is S.KEY_NOT_FOUND
    assert scene.refused == 1


async def test_a_strangers_beat_is_refused(scene):
    await scene.publish(entry())
    await scene.refresh()
    await scene.publish(entry(keys=()), store=SnapshotStore(scene.client, STRANGER))
    assert await scene.refresh() == 1
    assert scene.code() is S.OK
    assert scene.refused == 1


@pytest.mark.parametrize("name", [BEAT_KEY, ROLL_KEY])
@pytest.mark.parametrize("junk", [b"\x00", b"junk" * 3000, b"\x81" * 50])
async def test_junk_in_any_place_changes_nothing(scene, name, junk):
    await scene.publish(entry())
    await scene.refresh()
    await scene.publish(entry(keys=()))
    await scene.client.set(name, junk)
    assert await scene.refresh() == 1
    assert scene.code() is S.OK


async def test_a_forged_entry_holds_up_its_own_tenant_alone_and_not_for_ever(scene):
    await scene.publish(entry(), entry("bolt", keys=()))
    await scene.refresh()
    first_until_ms = scene.last.valid_until_ms
    scene.now_ms += 30_000
    revoked = entry("bolt", keys=(key(key_id="key_b", proof=proof("pck_b")),))
    await scene.publish(entry(keys=(key(revoked=True),)), revoked)
    await scene.client.set(tenant_key("acme"), encode_part(entry()))  # the old one, played back
    await scene.refresh()
    assert scene.code() is S.OK  # still the entry that was genuine
    assert scene.code("pck_b") is S.OK  # others move on
    scene.now_ms = first_until_ms
    assert scene.code() is S.NETWORK_UNAVAILABLE
    assert scene.code("pck_b") is S.OK
    await scene.publish(entry(keys=(key(revoked=True),)), revoked)
    await scene.refresh()
    assert scene.code() is S.KEY_REVOKED


async def test_a_tenant_that_is_no_longer_on_the_roll_is_gone(scene):
    await scene.publish(entry(), entry("bolt", keys=()))
    await scene.refresh()
    await scene.publish(entry("bolt", keys=()))
    await scene.refresh()
    assert scene.code() is S.KEY_NOT_FOUND


async def test_another_tenants_entry_is_no_entry(scene):
    parts = {"acme": encode_part(entry("bolt"))}
    roll = encode_part(Roll(places=(), models=(), tenants={"acme": digest_of(parts["acme"])}))
    await scene.store.write(scene.beat(digest_of(roll)), roll, parts)
    await scene.refresh()
    assert scene.code() is S.NETWORK_UNAVAILABLE  # it may be on the entry that did not come
    assert scene.refused == 1


async def test_the_limits_of_the_key_come_with_the_terms(scene):
    mine = LimitNumbers(requests_per_second=5)
    await scene.publish(entry(keys=(key(limits=mine),), limits=LimitNumbers(concurrency=3)))
    await scene.refresh()
    found = scene.keys.check((("authorization", f"Bearer {SECRET}"),), "10.0.0.1")
    terms = scene.keys.terms(found)
    assert (terms.limits.concurrency, terms.key_limits) == (3, mine)


async def test_a_word_on_the_channel_is_enough(scene, monkeypatch):
    monkeypatch.setattr(snapshot_feed, "POLL_SECONDS", 3600)
    await scene.publish(entry())
    watching = asyncio.create_task(scene.feed.watch())
    await scene.until(S.OK)
    await scene.publish(entry(keys=(key(revoked=True),)))
    await scene.until(S.KEY_REVOKED)
    watching.cancel()


async def test_the_watch_outlives_a_redis_that_goes_and_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot_feed, "POLL_SECONDS", 0.01)
    server = Redis(RedisPlan(tmp_path / "own"))
    server.start()
    async with connect(server.url("gateway")) as gateway:  # a gateway's own: it waits for nothing
        async with Client.from_url(server.url("control")) as control:
            scene = Scene(control, gateway)
            await scene.publish(entry())
            watching = asyncio.create_task(scene.feed.watch())
            await scene.until(S.OK)
        await asyncio.to_thread(server.stop)
        assert scene.code() is S.OK
        await asyncio.to_thread(server.start)
        async with Client.from_url(server.url("control")) as control:
            scene.store = SnapshotStore(control, CONTROL)
            await scene.publish(entry(keys=(key(revoked=True),)))
            await scene.until(S.KEY_REVOKED)
        watching.cancel()
    await asyncio.to_thread(server.destroy)
