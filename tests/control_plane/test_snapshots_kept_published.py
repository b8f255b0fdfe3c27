"""The task that publishes goes on whatever happens, and ends when it is told to."""

import asyncio
import contextlib
from urllib.parse import urlsplit

import pytest
from prefill_control.db import utc_now
from prefill_control.snapshots import task
from prefill_control.snapshots.service import Publisher
from prefill_control.snapshots.store import SnapshotStore
from prefill_control.snapshots.task import keep_published
from prefill_fleet.names import BEAT_KEY
from prefill_wire.signing import SigningKey
from redis.asyncio import Redis as Client
from redis.exceptions import WatchError

CONTROL = SigningKey.from_seed(b"c" * 32)
AT_MOST_SECONDS = 10


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


class Firewall:
    """Passes everything on, until it forgets the connections that there are: they fall silent."""

    def __init__(self, url):
        self._to = urlsplit(url)
        self.served, self.made, self._passing = [], asyncio.Queue(), asyncio.Event()
        self._passing.set()

    def url(self, server):
        port = server.sockets[0].getsockname()[1]
        return self._to._replace(netloc=f"{self._to.netloc.rpartition('@')[0]}@127.0.0.1:{port}")

    async def serve(self, reader, writer):
        self.served.append(asyncio.current_task())
        there = await asyncio.open_connection(self._to.hostname, self._to.port)
        ways = [(reader, there[1]), (there[0], writer)]
        passing = self._passing
        self.made.put_nowait(None)
        tasks = [asyncio.create_task(self._pass(*way, passing)) for way in ways]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for _, end in ways:
            end.close()
        await asyncio.gather(*tasks, *(end.wait_closed() for _, end in ways))

    @staticmethod
    async def _pass(reader, writer, passing):
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if passing.is_set():
                    writer.write(data)

    def forget(self):
        self._passing.clear()
        self._passing = asyncio.Event()
        self._passing.set()


async def test_a_connection_that_fell_silent_is_made_anew(urls, database, client, monkeypatch):
    monkeypatch.setattr(task, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(task, "CONNECT_SECONDS", 1)
    monkeypatch.setattr(task, "AGAIN_SECONDS", 0)
    publisher = Astonished(database, SnapshotStore(client, CONTROL), utc_now)
    publisher.met.set()
    firewall = Firewall(urls.app)
    async with await asyncio.start_server(firewall.serve, "127.0.0.1") as server:
        url = firewall.url(server).geturl()
        running = asyncio.create_task(keep_published(publisher, url))
        async with asyncio.timeout(AT_MOST_SECONDS):
            await firewall.made.get()
            await publisher.published.wait()
            firewall.forget()
            await firewall.made.get()
        running.cancel()
        await asyncio.wait({running}, timeout=AT_MOST_SECONDS)
        await asyncio.gather(*firewall.served)
    assert running.cancelled()
