"""Brings snapshots from Redis into the state: at every word that there is one, and every second."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from prefill_fleet.names import BEAT_KEY, CHANGED_CHANNEL, ROLL_KEY, tenant_key
from prefill_fleet.snapshot import (
    MAX_BEAT_BYTES,
    MAX_ROLL_BYTES,
    MAX_TENANT_BYTES,
    Roll,
    open_roll,
)
from prefill_wire.errors import IntegrityError, WireError
from prometheus_client import CollectorRegistry, Counter, Gauge
from redis.asyncio import Redis
from redis.exceptions import RedisError

from prefill_data.gateway.snapshots import SnapshotState

log = structlog.get_logger()
POLL_SECONDS = 1.0
TRIES = 3  # parts are written at once but read one after the other: a newer one may come between
BATCH = 256
AWAY = (RedisError, OSError, TimeoutError)
NONSENSE = (TypeError, ValueError, LookupError, AttributeError, RecursionError)  # in its answers


class SnapshotFeed:
    """Thin I/O around `SnapshotState`; what is not right leaves the last good state in force."""

    def __init__(
        self,
        redis: Redis,
        control_public: bytes,
        state: SnapshotState,
        registry: CollectorRegistry,
    ) -> None:
        self._redis, self._control_public, self.state = redis, control_public, state
        self._refused = Counter(
            "prefill_gateway_snapshots_refused", "Snapshots not taken over", registry=registry
        )
        Gauge(
            "prefill_gateway_snapshot_version", "Version in force", registry=registry
        ).set_function(lambda: state.version)

    async def refresh(self) -> None:
        """Look once; raises what Redis raises."""
        try:
            await self._refresh()
        except WireError as error:
            self._refused.inc()
            log.error("snapshot refused", reason=error.message, version=self.state.version)

    async def first_look(self) -> None:
        """What is there already, before anybody is let in; a Redis that is away is no reason to
        wait."""
        try:
            await self.refresh()
        except (*AWAY, *NONSENSE) as error:
            log.warning("no snapshot yet", reason=f"{type(error).__name__}: {error}")

    async def watch(self) -> None:
        """Look for as long as the process runs. A Redis that answers nonsense is as good as away:
        what is held ends by itself, and requests in flight need not end with it."""
        away = False
        while True:
            try:
                async with self._redis.pubsub() as words:
                    await words.subscribe(CHANGED_CHANNEL)
                    while True:
                        await self.refresh()
                        _end_if_cancelled()
                        away = False
                        await words.get_message(timeout=POLL_SECONDS)
            except (*AWAY, *NONSENSE) as error:
                if not away:  # once, not every second
                    reason = f"{type(error).__name__}: {error}"
                    nonsense = error if isinstance(error, NONSENSE) else None
                    log.warning("snapshots do not come", reason=reason, exc_info=nonsense)
                away = True
            _end_if_cancelled()
            await asyncio.sleep(POLL_SECONDS)

    async def _refresh(self) -> None:
        for _ in range(TRIES):
            signed = await self._read(BEAT_KEY, MAX_BEAT_BYTES)
            if not signed:
                return  # nothing is published yet, or no longer: what is held ends by itself
            beat = self.state.accept_beat(self._control_public, signed)
            held = self.state.roll_of(beat)
            if held is not None and not self.state.behind:
                self.state.renew(beat)
                return
            # While entries are missing the roll that names them need not come again and again.
            roll = held or await self._roll(beat.roll_digest)
            if roll is not None:
                parts = await self._parts(self.state.missing(roll))
                faults = self.state.advance(beat, roll, parts)
                if not faults:
                    return
        raise IntegrityError(
            f"{len(self.state.behind)} entries of beat {self.state.version} did not come whole"
        )

    async def _roll(self, digest: bytes) -> Roll | None:
        """None when another roll lies there: a newer beat belongs to it."""
        try:
            return open_roll(await self._read(ROLL_KEY, MAX_ROLL_BYTES), digest)
        except WireError:
            return None

    async def _parts(self, tenants: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for start in range(0, len(tenants), BATCH):
            some = tenants[start : start + BATCH]
            async with self._redis.pipeline(transaction=False) as pipeline:
                for tenant in some:
                    pipeline.getrange(tenant_key(tenant), 0, MAX_TENANT_BYTES)
                answers = await pipeline.execute(raise_on_error=False)
            # A value of another type is nothing: it holds up its own tenant alone.
            pairs = zip(some, answers, strict=True)
            found |= {tenant: data for tenant, data in pairs if isinstance(data, bytes)}
        return found

    async def _read(self, name: str, limit_bytes: int) -> bytes:
        """At most one byte more than may be there: a longer value is refused by its digest."""
        data = await self._redis.getrange(name, 0, limit_bytes)
        if not isinstance(data, bytes):
            raise IntegrityError(f"{name} was answered with no bytes: {type(data).__name__}")
        return data


def _end_if_cancelled() -> None:
    """redis-py sends in `asyncio.wait_for`, which in Python 3.11 returns what has just come and
    forgets that its task was cancelled meanwhile; and what is raised while a connection is closed
    takes a cancellation's place. The task itself does not forget."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
