"""A change costs its own tenant's entry; everybody's are looked at in rounds, a few at a time."""

import asyncio
import itertools

import asyncpg
import pytest
from prefill_control.db import utc_now
from prefill_control.snapshots import service
from prefill_control.snapshots.patrol import LEAST_TENANTS, Patrol
from prefill_control.snapshots.service import TURN_TENANTS, Publisher
from prefill_control.snapshots.store import SnapshotStore
from prefill_control.snapshots.task import keep_published
from prefill_fleet.names import BEAT_KEY, CHANGED_CHANNEL, ROLL_KEY, tenant_key
from prefill_fleet.snapshot import open_beat, open_roll, open_tenant
from prefill_wire.signing import SigningKey
from redis.asyncio import Redis as Client

CONTROL = SigningKey.from_seed(b"c" * 32)
CROWD = 3 * LEAST_TENANTS
FILL = f"""
    INSERT INTO tenants (id, name)
    SELECT 'ten_' || lpad(n::text, 4, '0'), 'Tenant ' || n FROM generate_series(1, {CROWD}) AS n;
    INSERT INTO api_keys (id, tenant_id, name, prefix, last4, key_hash, scopes, created_by)
    SELECT 'key_' || n, 'ten_' || lpad(n::text, 4, '0'), 'n', 'pck', 'xxxx', 'proof ' || n,
           '{{prefill}}', 'm' FROM generate_series(1, {CROWD}) AS n;
"""
ONE, OTHER = "ten_0007", "ten_0111"
REVOKE = "UPDATE api_keys SET state = 'revoked', revoked_at = now() WHERE tenant_id = '{}'"


@pytest.fixture
def crowd(cluster):
    """A database of its own: its rows change."""
    urls = cluster.copy()
    with asyncio.Runner() as runner:
        runner.run(execute(urls, FILL))
    return urls


@pytest.fixture
def urls(crowd):
    return crowd


@pytest.fixture
async def client(redis_server):
    client = Client.from_url(redis_server.url("control"))
    async for name in client.scan_iter("prefill:*"):
        await client.delete(name)
    yield client
    await client.aclose()


class Watched(SnapshotStore):
    """Keeps whose entries were written."""

    def __init__(self, client):
        super().__init__(client, CONTROL)
        self.written = []

    async def write(self, beat, roll, entries, **options):
        self.written.append(sorted(entries))
        await super().write(beat, roll, entries, **options)


class Desk:
    """A publisher, and what it built and wrote."""

    def __init__(self, database, client, monkeypatch):
        self.client, self.store, self.built = client, Watched(client), []
        self.publisher = Publisher(database, self.store, utc_now)
        build = service.build_tenant

        def counted(rows, now):
            self.built.append(rows.tenant.id)
            return build(rows, now)

        monkeypatch.setattr(service, "build_tenant", counted)

    def forget(self):
        self.built.clear()
        self.store.written.clear()

    async def key_of(self, tenant):
        beat = open_beat(CONTROL.public_bytes, await self.client.get(BEAT_KEY))
        roll = open_roll(await self.client.get(ROLL_KEY), beat.roll_digest)
        entry = open_tenant(await self.client.get(tenant_key(tenant)), tenant, roll.tenants[tenant])
        return entry.keys[0]


@pytest.fixture
def desk(database, client, monkeypatch):
    return Desk(database, client, monkeypatch)


async def execute(urls, statement):
    connection = await asyncpg.connect(urls.admin)
    await connection.execute(statement)
    await connection.close()


async def test_one_change_builds_and_writes_one_tenant_s_entry(crowd, desk):
    await desk.publisher.publish()
    assert len(desk.built) == CROWD + 1  # the platform's own tenant, too: the counter counts
    desk.forget()
    await execute(crowd, REVOKE.format(ONE))
    await desk.publisher.publish([ONE])
    assert desk.built == [ONE]
    assert desk.store.written == [[ONE]]
    assert (await desk.key_of(ONE)).revoked
    assert not (await desk.key_of(OTHER)).revoked


async def test_a_change_heard_while_serving_builds_one_entry(crowd, desk):
    listener = desk.client.pubsub()
    await listener.subscribe(CHANGED_CHANNEL)
    task = asyncio.create_task(keep_published(desk.publisher, crowd.app))
    await spoken(listener)
    desk.forget()
    await execute(crowd, REVOKE.format(ONE))
    await spoken(listener)
    assert (await desk.key_of(ONE)).revoked
    assert desk.store.written == [[ONE]]
    assert desk.built == [ONE]
    task.cancel()
    await listener.aclose()


async def spoken(listener):
    """Gateways are told of something new."""
    async with asyncio.timeout(20):
        while await listener.get_message(ignore_subscribe_messages=True, timeout=5) is None:
            pass


async def test_a_process_that_starts_writes_only_what_changed_while_nobody_listened(
    crowd, desk, database
):
    await desk.publisher.publish()
    desk.forget()
    assert await Patrol(Publisher(database, desk.store, utc_now), 2.0).whole_round() == frozenset()
    await execute(crowd, REVOKE.format(ONE))
    late = Publisher(database, desk.store, utc_now)
    found = await Patrol(late, 2.0).whole_round()
    assert found == {ONE}
    await late.publish(found)
    assert desk.store.written == [[ONE]]


async def test_rounds_find_what_no_change_told_of(crowd, desk):
    await desk.publisher.publish()
    await desk.client.set(tenant_key(ONE), b"somebody else's")
    await desk.client.delete(tenant_key(OTHER))
    await execute(crowd, "INSERT INTO tenants (id, name) VALUES ('ten_new', 'New')")
    patrol, found, steps = Patrol(desk.publisher, 2.0), set(), 0
    while steps == 0 or patrol.waiting:
        desk.forget()
        found |= await patrol.step()
        assert len(desk.built) <= LEAST_TENANTS  # never more at once
        steps += 1
    assert found == {ONE, OTHER, "ten_new"}
    assert steps == -(-(CROWD + 2) // LEAST_TENANTS)
    await desk.publisher.publish(found)
    assert await desk.publisher.differing(found) == frozenset()


@pytest.mark.parametrize("key", [BEAT_KEY, ROLL_KEY])
async def test_without_beat_or_roll_everything_is_behind(desk, key):
    await desk.publisher.publish()
    await desk.client.delete(key)
    assert await Patrol(desk.publisher, 2.0).step() is None
    assert await Patrol(desk.publisher, 2.0).whole_round() is None


async def test_another_process_s_roll_is_read_before_one_is_written(crowd, desk, database):
    await desk.publisher.publish()
    await execute(crowd, REVOKE.format(OTHER))
    await Publisher(database, desk.store, utc_now).publish([OTHER])
    await execute(crowd, REVOKE.format(ONE))
    await desk.publisher.publish([ONE])
    assert (await desk.key_of(ONE)).revoked
    assert (await desk.key_of(OTHER)).revoked


async def test_others_have_their_turn_while_everything_is_built(desk):
    turns = []

    async def other():
        while True:
            turns.append(len(desk.built))
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await desk.publisher.publish()
    task.cancel()
    gaps = [later - earlier for earlier, later in itertools.pairwise(turns)]
    assert 0 < max(gaps) <= TURN_TENANTS
