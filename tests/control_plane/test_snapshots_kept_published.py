"""The task that publishes goes on whatever happens, and ends when it is told to."""

import asyncio

import pytest
from prefill_control.db import utc_now
from prefill_control.snapshots import task
from prefill_control.snapshots.service import Publisher
from prefill_control.snapshots.store import SnapshotStore
from prefill_control.snapshots.task import keep_published
from prefill_fleet.names import BEAT_KEY
from prefill_stack.services.redis import Redis, RedisPlan
from prefill_wire.signing import SigningKey
from redis.asyncio import Redis as Client
from redis.exceptions import WatchError

CONTROL = SigningKey.from_seed(b"c" * 32)
AT_MOST_SECONDS = 10


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory):
    server = Redis(RedisPlan(tmp_path_factory.mktemp("redis")))
    server.start()
    yield server
    server.destroy()


@pytest.fixture
async def client(redis_server):
    async with Client.from_url(redis_server.url("control")) as client:
        async for name in client.scan_iter("prefill:*"):
            await client.delete(name)
        yield client


class Astonished(Publisher):
    """Meets something that nobody expected, once."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.met, self.published = asyncio.Event(), asyncio.Event()

    async def everybody(self):
        if not self.met.is_set():
            self.met.set()
            raise TypeError("an integer where bytes belong")
        return await super().everybody()

    async def publish(self, changed=None):
        beat = await super().publish(changed)
        self.published.set()
        return beat


class Deaf(Publisher):
    """Loses one cancellation, as `asyncio.wait_for` does; what came of it follows."""

    follows = None

    async def publish(self, changed=None):
        if not self.begun.is_set():
            self.begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if self.follows is not None:
                    raise self.follows from None
        return await super().publish(changed)


async def test_what_nobody_expected_ends_nothing(urls, database, client, monkeypatch):
    monkeypatch.setattr(task, "AGAIN_SECONDS", 0)
    publisher = Astonished(database, SnapshotStore(client, CONTROL), utc_now)
    running = asyncio.create_task(keep_published(publisher, urls.app))
    async with asyncio.timeout(AT_MOST_SECONDS):
        await publisher.published.wait()
    assert publisher.met.is_set()
    assert await client.exists(BEAT_KEY)
    running.cancel()
    await asyncio.wait({running}, timeout=AT_MOST_SECONDS)
    assert running.cancelled()


@pytest.mark.parametrize("follows", [None, WatchError("gone"), TypeError("no bytes")])
async def test_a_cancellation_that_got_lost_ends_it_all_the_same(urls, database, client, follows):
    publisher = Deaf(database, SnapshotStore(client, CONTROL), utc_now)
    publisher.begun, publisher.follows = asyncio.Event(), follows
    running = asyncio.create_task(keep_published(publisher, urls.app))
    async with asyncio.timeout(AT_MOST_SECONDS):
        await publisher.begun.wait()
    running.cancel()
    await asyncio.wait({running}, timeout=AT_MOST_SECONDS)
    assert running.cancelled()
