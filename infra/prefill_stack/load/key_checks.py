"""Key checks as a gateway makes them for every call: by snapshot, with the tenant's limits."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from prefill_data.errors import DataPlaneError
from prefill_data.gateway.snapshot_feed import SnapshotFeed
from prefill_data.gateway.snapshots import SnapshotKeys, SnapshotState
from prefill_data.limits.limiter import Limiter
from prefill_data.limits.store import RedisStore
from prefill_data.redis_client import connect
from prometheus_client import CollectorRegistry

from prefill_stack.load.control_stand import ControlStand
from prefill_stack.load.over_grant import steady_us

ADDRESS = "127.0.0.1"
WRONG_SHARE = 20  # one secret in so many is unknown
WAIT_SECONDS = 300.0
AGAIN_SECONDS = 0.5


@dataclass(frozen=True)
class GatewayChecks:
    """A gateway's key source and limiter over a snapshot of the whole crowd."""

    keys: SnapshotKeys
    limiter: Limiter
    secrets: Sequence[str] = field(repr=False)

    async def __call__(self, number: int) -> None:
        """One check: a known key is admitted within its limits, an unknown one is refused."""
        wrong = number % WRONG_SHARE == 0
        secret = random.Random(number).choice(self.secrets)  # noqa: S311 (which key is asked for)
        shown = (("authorization", f"Bearer {secret[:-1] + '!' if wrong else secret}"),)
        try:
            key = self.keys.check(shown, ADDRESS)
        except DataPlaneError:
            if not wrong:
                raise
            return
        terms = self.keys.terms(key)
        numbers = (terms.limits, terms.key_limits)
        permit = await self.limiter.admit(key.tenant, key.key_id, numbers, 1)
        permit.end(counted=True)


@asynccontextmanager
async def fed_state(stand: ControlStand) -> AsyncIterator[SnapshotState]:
    """What a gateway knows, fed by what the control plane publishes: everybody, to begin with."""
    redis, state = connect(stand.gateway_redis_url), SnapshotState()
    feed = SnapshotFeed(redis, stand.control_public_key, state, CollectorRegistry())
    task = asyncio.create_task(feed.watch())
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while len(state.by_proof) < len(stand.secrets):  # noqa: ASYNC110 (nothing tells)
                await asyncio.sleep(0.1)
        yield state
    finally:
        await _ended(task)
        await redis.aclose()


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancelled until it is over: a read that times out at the same moment may swallow the word."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=AGAIN_SECONDS)


@asynccontextmanager
async def gateway_checks(stand: ControlStand) -> AsyncIterator[GatewayChecks]:
    """The parts of a gateway process that a check goes through."""
    redis = connect(stand.gateway_redis_url)
    limiter = Limiter(RedisStore(redis, "bench-gateway", steady_us), steady_us)
    task = asyncio.create_task(limiter.run())
    try:
        async with fed_state(stand) as state:
            keys = SnapshotKeys(state, stand.api_key_pepper, lambda: time.time_ns() // 1_000_000)
            yield GatewayChecks(keys, limiter, stand.secrets)
    finally:
        await _ended(task)
        await limiter.settle()
        await redis.aclose()
