"""Hears every committed change and publishes it; renews and repeats for as long as it runs."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import structlog
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from prefill_control.snapshots.service import Publisher

log = structlog.get_logger()
CHANNEL = "prefill_changes"
GATHER_SECONDS = 0.05  # changes that come together are published together
RENEW_SECONDS = 2.0
ALL_SECONDS = 300.0  # heals what somebody else wrote; seconds of work with 10,000 tenants
AGAIN_SECONDS = 1.0
CONNECT_SECONDS = 5.0
EVERYTHING = None
AWAY = (OSError, TimeoutError, SQLAlchemyError, RedisError, asyncpg.PostgresError,
        asyncpg.InterfaceError)  # fmt: skip


class Dirty:
    """Tenants whose entries are behind; `everything` when nobody knows which."""

    def __init__(self) -> None:
        self._tenants: set[str] = set()
        self._everything, self.event = True, asyncio.Event()
        self.event.set()

    def add(self, tenant: str) -> None:
        """A tenant's id, or empty for the catalogue."""
        self._tenants.add(tenant)
        self.event.set()

    def all(self) -> None:
        """Something may have been missed."""
        self._everything = True
        self.event.set()

    def take(self) -> frozenset[str] | None:
        """What to publish now: these tenants, or everything (None)."""
        found = EVERYTHING if self._everything else frozenset(self._tenants)
        self._everything = False
        self._tenants.clear()
        self.event.clear()
        return found


async def keep_published(publisher: Publisher, database_url: str) -> None:
    """Runs until it is cancelled; whatever is away now is tried again, and named in the log."""
    dirty = Dirty()
    while True:
        try:
            async with AsyncExitStack() as stack:
                lost = await _listen(stack, database_url, dirty)
                dirty.all()  # what was committed while nobody listened
                await _publish_until(lost, publisher, dirty)
        except AWAY as error:
            log.warning("snapshots are not published", reason=f"{type(error).__name__}: {error}")
            await asyncio.sleep(AGAIN_SECONDS)


async def _listen(stack: AsyncExitStack, database_url: str, dirty: Dirty) -> asyncio.Event:
    """Changes go into `dirty`; the event says that the connection is gone."""
    lost = asyncio.Event()

    def gone(_: Any) -> None:
        lost.set()
        dirty.event.set()

    def changed(_connection: Any, _pid: int, _channel: str, payload: str) -> None:
        dirty.add(payload)

    connection = await asyncpg.connect(database_url, timeout=CONNECT_SECONDS)
    stack.callback(connection.terminate)
    connection.add_termination_listener(gone)
    await connection.add_listener(CHANNEL, changed)
    return lost


async def _publish_until(lost: asyncio.Event, publisher: Publisher, dirty: Dirty) -> None:
    loop = asyncio.get_running_loop()
    all_at = loop.time() + ALL_SECONDS
    while not lost.is_set():
        if loop.time() >= all_at:
            dirty.all()
            all_at = loop.time() + ALL_SECONDS
        if await _wait(dirty.event, RENEW_SECONDS):
            await asyncio.sleep(GATHER_SECONDS)
            await publisher.publish(dirty.take())
        else:
            await publisher.renew()


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
