"""Hears every committed change and publishes it; renews and repeats for as long as it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import asyncpg
import structlog
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from prefill_control.snapshots.patrol import Patrol
from prefill_control.snapshots.service import Publisher

log = structlog.get_logger()
CHANNEL = "prefill_changes"
GATHER_SECONDS = 0.2  # changes that come together are published together; each writes one roll
RENEW_SECONDS = 2.0
AGAIN_SECONDS = 1.0
CONNECT_SECONDS = 5.0
EVERYTHING = None
AWAY = (OSError, TimeoutError, SQLAlchemyError, RedisError, asyncpg.PostgresError,
        asyncpg.InterfaceError)  # fmt: skip


class Dirty:
    """Tenants whose entries are behind; `event` is set while there is something to publish."""

    def __init__(self) -> None:
        self._tenants: set[str] = set()
        self._everything, self.event = False, asyncio.Event()

    def add(self, *tenants: str) -> None:
        """Tenants' ids, or empty for the catalogue."""
        self._tenants.update(tenants)
        self.event.set()

    def all(self) -> None:
        """Nothing of what is published is of use."""
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
    """Runs until it is cancelled; whatever is away now is tried again, and named in the log. So is
    what nobody expected, such as a Redis that answers nonsense: without this task gateways would
    let nobody in after 60 s, and nobody would know why."""
    while True:
        try:
            async with AsyncExitStack() as stack:
                dirty = Dirty()
                ear = await _listen(stack, database_url, dirty)
                await _publish_until(ear, publisher, dirty)
        except AWAY as error:
            log.warning("snapshots are not published", reason=f"{type(error).__name__}: {error}")
        except Exception as error:
            log.error("snapshots are not published", exc_info=error)
        _end_if_cancelled()
        await asyncio.sleep(AGAIN_SECONDS)


@dataclass(frozen=True, slots=True)
class Ear:
    """The connection that changes are heard on; `lost` once it is gone."""

    connection: Any  # the driver comes without types
    lost: asyncio.Event

    async def check(self) -> None:
        """TimeoutError when nobody is at the other end: a connection that a firewall forgot for its
        silence brings no change, and no end either."""
        await self.connection.execute("SELECT 1", timeout=CONNECT_SECONDS)


async def _listen(stack: AsyncExitStack, database_url: str, dirty: Dirty) -> Ear:
    """Changes go into `dirty`."""
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
    return Ear(connection, lost)


async def _publish_until(ear: Ear, publisher: Publisher, dirty: Dirty) -> None:
    """What was committed while nobody listened comes first, and no renewal before it."""
    loop, patrol = asyncio.get_running_loop(), Patrol(publisher, RENEW_SECONDS)
    _note(dirty, await patrol.whole_round())
    dirty.add("")
    step_at = loop.time() + RENEW_SECONDS
    while not ear.lost.is_set():
        if await _wait(dirty.event, RENEW_SECONDS):
            await asyncio.sleep(GATHER_SECONDS)
            await publisher.publish(dirty.take())
        else:
            await publisher.renew()
        _end_if_cancelled()
        if loop.time() >= step_at:
            _note(dirty, await patrol.step())
            await ear.check()
            step_at = loop.time() + RENEW_SECONDS


def _end_if_cancelled() -> None:
    """Python 3.11's `wait_for`, in which redis-py sends, returns what has just come and forgets
    that the task was cancelled meanwhile; the task itself does not."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _note(dirty: Dirty, found: Collection[str] | None) -> None:
    if found is None:
        dirty.all()
    elif found:
        log.warning("entries were behind", tenants=len(found))
        dirty.add(*found)


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
