"""A watch that is cancelled ends, wherever it is: also where what it waits for has just come."""

import asyncio
from collections.abc import Callable

import pytest
from prefill_data.gateway import snapshot_feed
from prefill_data.gateway.snapshot_feed import SnapshotFeed
from prefill_data.gateway.snapshots import SnapshotState
from prefill_data.redis_client import connect
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis as Client
from snapshot_scene import CONTROL, Scene, entry

WAITS = 60  # connect, subscribe, the first look, and several turns
LAST_WAITS = 60  # of the turn that it is in


class WentOn(Exception):
    """A cancellation was lost."""


class CancelledAt:
    """Awaits `work`; its task is cancelled at the wait number `nth`: as soon as it waits, or when
    what it waits for has come and it has not run on."""

    def __init__(self, work, nth, when_it_came):
        self.work, self.nth, self.when_it_came, self.waits = work, nth, when_it_came, 0

    def __await__(self):
        run, value = self.work.send, None
        while True:
            try:
                awaited = run(value)
            except StopIteration as end:
                return end.value
            self._count(awaited)
            try:
                value = yield awaited
                run = self.work.send
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 (it is the work's)
                run, value = self.work.throw, error

    def _count(self, awaited):
        self.waits += 1
        cancel: Callable[..., object] = asyncio.current_task().cancel
        if self.waits == self.nth and self.when_it_came and awaited is not None:
            awaited.add_done_callback(lambda _: cancel())  # before the task's own
        elif self.waits == self.nth:
            asyncio.get_running_loop().call_soon(cancel)
        elif self.waits > self.nth + LAST_WAITS:
            self.work.close()
            raise WentOn


@pytest.fixture
async def published(redis_server):
    async with Client.from_url(redis_server.url("control")) as control:
        await Scene(control, control).publish(entry())


async def outcome(url, nth, when_it_came):
    """How a watch ended."""
    async with connect(url) as redis:
        feed = SnapshotFeed(redis, CONTROL.public_bytes, SnapshotState(), CollectorRegistry())
        work = CancelledAt(feed.watch(), nth, when_it_came)

        async def drive():
            await work

        (ended,) = await asyncio.gather(asyncio.create_task(drive()), return_exceptions=True)
        return type(ended)


@pytest.mark.parametrize("when_it_came", [False, True])
async def test_a_cancelled_watch_ends(redis_server, published, monkeypatch, when_it_came):
    monkeypatch.setattr(snapshot_feed, "POLL_SECONDS", 0)
    url = redis_server.url("gateway")
    ends = [await outcome(url, nth, when_it_came) for nth in range(1, WAITS)]
    assert set(ends) == {asyncio.CancelledError}
