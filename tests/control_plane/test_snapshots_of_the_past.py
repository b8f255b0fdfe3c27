"""A Redis that went back, or that others wrote in: nothing of it is signed again."""

import asyncio
import itertools

import asyncpg
import pytest
from prefill_control.db import utc_now
from prefill_control.snapshots.patrol import Patrol
from prefill_control.snapshots.service import Publisher
from prefill_control.snapshots.store import SnapshotStore
from prefill_data.gateway.snapshot_feed import SnapshotFeed
from prefill_data.gateway.snapshots import SnapshotState
from prefill_fleet.names import BEAT_KEY, ROLL_KEY, tenant_key
from prefill_fleet.snapshot import open_beat, open_roll
from prefill_stack.services.redis import Redis, RedisPlan
from prefill_wire.errors import IntegrityError
from prefill_wire.signing import SigningKey
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis as Client
from redis.exceptions import ResponseError, WatchError

CONTROL = SigningKey.from_seed(b"c" * 32)
ROWS = """
    INSERT INTO tenants (id, name) VALUES ('ten_a', 'a'), ('ten_b', 'b');
    INSERT INTO api_keys (id, tenant_id, name, prefix, last4, key_hash, scopes, created_by)
    VALUES ('key_a', 'ten_a', 'n', 'pck', 'xxxx', 'aa', '{prefill}', 'm'),
      ('key_b', 'ten_b', 'n', 'pck', 'xxxx', 'bb', '{prefill}', 'm');
"""
REVOKE = "UPDATE api_keys SET state = 'revoked', revoked_at = now() WHERE id = 'key_a'"


@pytest.fixture
def urls(cluster):
    """A database of its own: its rows change."""
    urls = cluster.copy()
    with asyncio.Runner() as runner:
        runner.run(execute(urls, ROWS))
    return urls


async def execute(urls, statement):
    connection = await asyncpg.connect(urls.admin)
    await connection.execute(statement)
    await connection.close()


class Gateway:
    """What a gateway knows."""

    def __init__(self, client):
        self.state = SnapshotState()
        self.feed = SnapshotFeed(client, CONTROL.public_bytes, self.state, CollectorRegistry())

    async def revoked(self):
        await self.feed.refresh()
        return self.state.by_proof["aa"][1].revoked


class Scene:
    """A control plane and a Redis whose content can be put back to what it was."""

    def __init__(self, database, urls, control, gateway):
        self.database, self.urls, self.client, self.gateway = database, urls, control, gateway
        self.publisher = self.another()

    def another(self):
        """The publisher of another process."""
        return Publisher(self.database, SnapshotStore(self.client, CONTROL), utc_now)

    async def content(self):
        return {name: await self.client.get(name) async for name in self.client.scan_iter("*")}

    async def put_back(self, content):
        async with self.client.pipeline(transaction=True) as pipeline:
            for name, value in content.items():
                pipeline.set(name, value)
            await pipeline.execute()


class Meddled(Client):
    """Others have their turn after every command that is sent alone."""

    meddle = None

    async def execute_command(self, *args, **options):
        answer = await super().execute_command(*args, **options)
        if self.meddle is not None:
            await self.meddle()
        return answer


@pytest.fixture
async def scene(redis_server, urls, database):
    control = Meddled.from_url(redis_server.url("control"))
    gateway = Client.from_url(redis_server.url("gateway"))
    async for name in control.scan_iter("prefill:*"):
        await control.delete(name)
    yield Scene(database, urls, control, gateway)
    await control.aclose()
    await gateway.aclose()


async def renew(scene):
    await scene.publisher.renew()


async def renew_elsewhere(scene):
    await scene.another().renew()


async def publish_another_tenant(scene):
    await scene.publisher.publish(["ten_b"])


@pytest.mark.parametrize("go_on", [renew, renew_elsewhere, publish_another_tenant])
async def test_a_revoked_key_stays_out_when_redis_went_back(scene, go_on):
    gateway = Gateway(scene.gateway)
    await scene.publisher.publish()
    before = await scene.content()
    assert not await gateway.revoked()
    await execute(scene.urls, REVOKE)
    await scene.publisher.publish(["ten_a"])
    assert await gateway.revoked()
    await scene.put_back(before)
    assert not await Gateway(scene.gateway).revoked()  # what is back is genuine
    await go_on(scene)
    assert await gateway.revoked()
    assert await Gateway(scene.gateway).revoked()
    assert not gateway.state.behind


async def test_a_database_that_went_back_is_no_reason_to_believe_redis(scene):
    last = await scene.publisher.publish()
    assert (await scene.publisher.renew()).roll_digest == last.roll_digest
    await execute(scene.urls, "SELECT setval('snapshot_versions', 7)")
    await execute(scene.urls, REVOKE)
    beat = await scene.publisher.renew()
    assert beat.version > last.version
    assert await Gateway(scene.gateway).revoked()


@pytest.mark.parametrize("name", [BEAT_KEY, ROLL_KEY, tenant_key("ten_a")])
async def test_a_value_of_another_type_is_replaced(scene, name):
    await scene.publisher.publish()
    await scene.client.delete(name)
    await scene.client.rpush(name, b"no string")
    with pytest.raises(ResponseError):
        await scene.client.get(name)
    patrol = Patrol(scene.another(), 2.0)
    await scene.publisher.publish(await patrol.whole_round())
    assert not await Gateway(scene.gateway).revoked()
    assert await patrol.whole_round() == frozenset()


async def test_a_roll_that_is_published_meanwhile_is_no_loss(scene, redis_server):
    states = itertools.cycle(["suspended", "active"])
    change = "UPDATE tenants SET state = '{}' WHERE id = 'ten_b'"
    async with Client.from_url(redis_server.url("control")) as other:
        elsewhere = Publisher(scene.database, SnapshotStore(other, CONTROL), utc_now)

        async def meddle():
            await execute(scene.urls, change.format(next(states)))
            await elsewhere.publish(["ten_b"])

        await meddle()
        scene.client.meddle = meddle
        beat = open_beat(CONTROL.public_bytes, await scene.client.get(BEAT_KEY))
        with pytest.raises(IntegrityError):  # two commands read what does not belong together
            open_roll(await scene.client.get(ROLL_KEY), beat.roll_digest)
        assert await scene.publisher.everybody() == ["ten_a", "ten_b", "ten_platform"]


class FailedOver(SnapshotStore):
    """Something happens just before the last write."""

    def __init__(self, client, happens):
        super().__init__(client, CONTROL)
        self.happens = happens

    async def _check_there(self, last, after):
        await self.happens()
        await super()._check_there(last, after)


@pytest.mark.parametrize("call", [lambda p: p.renew(), lambda p: p.publish(["ten_b"])])
async def test_nothing_is_written_on_what_came_back_meanwhile(scene, call):
    await scene.publisher.publish()
    before = await scene.content()
    await execute(scene.urls, REVOKE)
    await scene.publisher.publish(["ten_a"])
    store = FailedOver(scene.client, lambda: scene.put_back(before))
    with pytest.raises(WatchError):
        await call(Publisher(scene.database, store, utc_now))
    assert await scene.content() == before
    await scene.publisher.renew()
    gateway = Gateway(scene.gateway)
    assert await gateway.revoked()
    assert not gateway.state.behind


@pytest.fixture
def own_server(tmp_path):
    server = Redis(RedisPlan(tmp_path / "own"))
    server.start()
    yield server
    server.destroy()


async def test_no_roll_is_written_when_the_server_went_after_the_entries(own_server, database):
    async with Client.from_url(own_server.url("control")) as client:

        async def restart():
            await asyncio.to_thread(own_server.stop)
            await asyncio.to_thread(own_server.start)
            await client.connection_pool.disconnect(inuse_connections=False)  # it connects anew

        with pytest.raises(WatchError):
            await Publisher(database, FailedOver(client, restart), utc_now).publish()
        assert not await client.exists(BEAT_KEY, ROLL_KEY)
        await Publisher(database, SnapshotStore(client, CONTROL), utc_now).renew()
        assert await client.exists(BEAT_KEY, ROLL_KEY) == 2
