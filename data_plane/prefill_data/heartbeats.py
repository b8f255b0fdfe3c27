"""Tells the control plane every two seconds, signed, how this process is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import structlog
from prefill_fleet.credential import Credential
from prefill_fleet.heartbeat import BEAT_SECONDS, Heartbeat, seal_heartbeat
from redis.asyncio import Redis
from redis.exceptions import RedisError

log = structlog.get_logger()
AWAY = (RedisError, OSError, TimeoutError)


class Herald:
    """Writes one field of a hash that all processes of its role share."""

    def __init__(
        self, redis: Redis, key: str, credential: Credential, look: Callable[[], Heartbeat]
    ) -> None:
        self._redis, self._key, self._credential, self._look = redis, key, credential, look

    async def tell(self) -> None:
        """Once; raises what Redis raises."""
        beat = self._look()
        await self._redis.hset(self._key, beat.name, seal_heartbeat(self._credential, beat))

    async def run(self) -> None:
        """For as long as the process runs: without it the process works on, unseen."""
        away = False
        while True:
            try:
                await self.tell()
                away = False
            except AWAY as error:
                if not away:  # once, not every two seconds
                    log.warning("heartbeat", reason=f"{type(error).__name__}: {error}")
                away = True
            await asyncio.sleep(BEAT_SECONDS)


def installed_version() -> str:
    """Of the platform, as its distribution says."""
    try:
        return version("prefill-cloud-platform")
    except PackageNotFoundError:
        return "unknown"
