"""Entries whose tenant is gone go, too, and never one that a roll names."""

import asyncpg
import pytest
from prefill_control.db import utc_now
from prefill_control.snapshots import store as store_module
from prefill_control.snapshots.patrol import Patrol
from prefill_control.snapshots.service import Publisher
from prefill_control.snapshots.store import SnapshotStore
from prefill_data.gateway.snapshot_feed import SnapshotFeed
from prefill_data.gateway.snapshots import SnapshotState
from prefill_fleet.names import BEAT_KEY, ROLL_KEY, tenant_key
from prefill_fleet.snapshot import VALID_MS, open_beat, open_roll
from prefill_wire.signing import SigningKey
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis as Client

CONTROL = SigningKey.from_seed(b"c" * 32)
FOR_EVER = -1  # what TTL answers
ADD = "INSERT INTO tenants (id, name) VALUES ('{0}', '{0}')"
DELETE = "DELETE FROM tenants WHERE id = '{}'"
CLOSE = "UPDATE tenants SET state = 'closed', closed_at = now() - interval '{}' WHERE id = 'ten_a'"


@pytest.fixture
def urls(cluster):
    """A database of its own: its rows change."""
    return cluster.copy()


class Scene:
    """Two tenants whose entries are published."""

    def __init__(self, database, urls, client):
        self.urls, self.client = urls, client
        self.store = SnapshotStore(client, CONTROL)
        self.publisher = Publisher(database, self.store, utc_now)

    async def execute(self, *statements):
        connection = await asyncpg.connect(self.urls.admin)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    async def ttl(self, tenant):
        return await self.client.ttl(tenant_key(tenant))

    async def named(self):
        beat = open_beat(CONTROL.public_bytes, await self.client.get(BEAT_KEY))
        return set(open_roll(await self.client.get(ROLL_KEY), beat.roll_digest).tenants)


@pytest.fixture
async def scene(redis_server, urls, database):
    async with Client.from_url(redis_server.url("control")) as client:
        async for name in client.scan_iter("prefill:*"):
            await client.delete(name)
        made = Scene(database, urls, client)
        await made.execute(ADD.format("ten_a"), ADD.format("ten_b"))
        await made.publisher.publish()
        yield made


def lingers(seconds):
    return 0 < seconds <= VALID_MS // 1000


@pytest.mark.parametrize("changed", [["ten_a"], None])
async def test_the_entry_of_a_deleted_tenant_goes_when_no_roll_that_names_it_holds(scene, changed):
    assert await scene.ttl("ten_a") == FOR_EVER
    await scene.execute(DELETE.format("ten_a"))
    await scene.publisher.publish(changed)
    assert lingers(await scene.ttl("ten_a"))
    assert await scene.ttl("ten_b") == FOR_EVER
    assert await scene.named() == {"ten_b", "ten_platform"}


async def test_a_tenant_that_comes_back_stays(scene):
    await scene.execute(DELETE.format("ten_a"))
    await scene.publisher.publish(["ten_a"])
    await scene.execute(ADD.format("ten_a"))
    await scene.publisher.publish(["ten_a"])
    assert await scene.ttl("ten_a") == FOR_EVER


class Slow(SnapshotFeed):
    """Something happens after it read the roll, before it reads entries."""

    meanwhile = None

    async def _parts(self, tenants):
        if self.meanwhile is not None:
            await self.meanwhile()
        return await super()._parts(tenants)


@pytest.mark.parametrize(("linger_seconds", "behind"), [(VALID_MS // 1000, False), (0, True)])
async def test_a_gateway_that_just_read_the_roll_still_finds_the_entry(
    scene, redis_server, monkeypatch, linger_seconds, behind
):
    monkeypatch.setattr(store_module, "LINGER_SECONDS", linger_seconds)
    seen = []

    class State(SnapshotState):
        def advance(self, *arguments):
            faults = super().advance(*arguments)
            seen.append(bool(self.behind))
            return faults

    async with Client.from_url(redis_server.url("gateway")) as gateway:
        feed = Slow(gateway, CONTROL.public_bytes, State(), CollectorRegistry())

        async def delete():
            feed.meanwhile = None
            await scene.execute(DELETE.format("ten_a"))
            await scene.publisher.publish(["ten_a"])

        feed.meanwhile = delete
        await feed.refresh()
        assert seen[0] is behind
        await feed.refresh()
        assert set(feed.state.entries) == {"ten_b", "ten_platform"}


async def test_a_round_finds_entries_that_nobody_took_away(scene):
    strays = [tenant_key("ten_old").encode(), tenant_key("").encode() + b"\xff\x00"]
    for name in strays:
        await scene.client.set(name, b"left")
    await scene.client.rpush(tenant_key("ten_list"), b"left")
    await scene.client.set("prefill:snapshot:other", b"no entry")
    assert await Patrol(scene.publisher, 2.0).step() == frozenset()
    for name in (*strays, tenant_key("ten_list")):
        assert lingers(await scene.client.ttl(name))
    for name in (ROLL_KEY, "prefill:snapshot:other", *map(tenant_key, await scene.named())):
        assert await scene.client.ttl(name) == FOR_EVER


class Raced(SnapshotStore):
    """Somebody else publishes after one has looked for strays."""

    def __init__(self, client, publish):
        super().__init__(client, CONTROL)
        self.publish, self.found = publish, None

    async def strays(self, named):
        self.found = await super().strays(named)
        await self.publish()
        return self.found


async def test_the_entry_of_a_tenant_who_is_just_being_published_stays(scene, database):
    async def publish():
        await scene.execute(ADD.format("ten_new"))
        await scene.publisher.publish(["ten_new"])

    await scene.client.set(tenant_key("ten_new"), b"written before the roll is")
    store = Raced(scene.client, publish)
    assert await Publisher(database, store, utc_now).sweep() == 0
    assert store.found == [tenant_key("ten_new").encode()]
    assert await scene.ttl("ten_new") == FOR_EVER


async def test_nothing_is_taken_away_by_a_roll_of_the_past(scene):
    before = {name: await scene.client.get(name) for name in (BEAT_KEY, ROLL_KEY)}
    await scene.execute(ADD.format("ten_new"))
    await scene.publisher.publish(["ten_new"])
    for name, value in before.items():
        await scene.client.set(name, value)
    assert await scene.publisher.sweep() == 0
    assert await scene.ttl("ten_new") == FOR_EVER
    await scene.publisher.renew()
    assert await scene.named() == {"ten_a", "ten_b", "ten_new", "ten_platform"}


async def test_a_closed_tenant_is_forgotten_with_its_keys(scene):
    patrol = Patrol(scene.publisher, 2.0)
    await scene.execute(CLOSE.format("6 days"))
    await scene.publisher.publish(await patrol.whole_round())
    assert "ten_a" in await scene.named()
    assert await scene.ttl("ten_a") == FOR_EVER
    await scene.execute(CLOSE.format("8 days"))
    found = await patrol.whole_round()
    assert found == {"ten_a"}
    await scene.publisher.publish(found)
    assert await scene.named() == {"ten_b", "ten_platform"}
    assert lingers(await scene.ttl("ten_a"))
    assert await patrol.whole_round() == frozenset()
