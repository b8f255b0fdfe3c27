"""Who lends units: Redis, and for a while without Redis this gateway to itself."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Protocol

import structlog
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from prefill_data.limits.buckets import SECOND_US, Bucket, BucketId, Limit
from prefill_data.limits.ledger import LEASE_US, Answer, Ask, Ledger

log = structlog.get_logger()
SCRIPT = (files("prefill_data.limits") / "script.lua").read_text(encoding="utf-8")
AWAY = (RedisError, OSError, TimeoutError)
KEEP_MS = 60_000  # beyond the time in which a rate forgets, a lease ends, a period is over
PROBED = Bucket(BucketId("-", "-", Limit.REQUESTS), 1, 1)  # nobody's
Clock = Callable[[], int]


class LimitStore(Protocol):
    """Settles and lends; one answer an ask, in order."""

    async def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """Raises what the transport raises."""


class RedisStore:
    """The script in Redis, all asks in one round trip; time is the server's."""

    def __init__(self, redis: Redis, holder: str, now_us: Clock) -> None:
        self._redis, self._holder, self._now_us = redis, holder, now_us
        self._digest = ""

    async def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """Raises RedisError, OSError or TimeoutError."""
        if not self._digest:
            self._digest = str(await self._redis.script_load(SCRIPT))
        try:
            return await self._run(asks)
        except NoScriptError:  # the server was restarted: nothing of a pipeline of these ran
            self._digest = str(await self._redis.script_load(SCRIPT))
            return await self._run(asks)

    async def _run(self, asks: Sequence[Ask]) -> list[Answer]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for ask in asks:
                arguments = script_arguments(self._holder, ask, self._now_us())
                pipeline.evalsha(self._digest, 1, ask.bucket.id.name, *arguments)
            return [Answer(*row) for row in await pipeline.execute()]


def script_arguments(holder: str, ask: Ask, now_us: int) -> list[str | int]:
    """The ARGV of one ask; also how long the account is kept after this."""
    bucket = ask.bucket
    keep_ms = KEEP_MS + LEASE_US // 1000
    if bucket.per_second:
        keep_ms += 1000 * bucket.capacity // bucket.per_second
    keep_ms += max(0, bucket.ends_at_ms - now_us // 1000)
    kind = "lent" if bucket.lent else "quota" if bucket.is_quota else "rate"
    numbers = (bucket.per_second, bucket.capacity, bucket.scale, kind, LEASE_US, keep_ms)
    told = (ask.told, ask.told_born_us)
    return [holder, *numbers, ask.keep, ask.back, ask.extra, ask.want, ask.least, *told]


class LocalStore:
    """A gateway that stands alone lends to itself."""

    def __init__(self, holder: str, now_us: Clock) -> None:
        self._holder, self._now_us = holder, now_us
        self._ledgers: defaultdict[BucketId, Ledger] = defaultdict(Ledger)

    async def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """Never raises."""
        now_us = self._now_us()
        return [self._ledgers[ask.bucket.id].ask(self._holder, ask, now_us) for ask in asks]


class SurvivingStore:
    """Redis when it answers; else this gateway lends to itself, from what it last heard was left
    (from the whole, when it never asked: a limiter that is away stops nobody).

    Of a rate it takes its share among `gateways`, so that all of them together stay within it. What
    was spent meanwhile is told to Redis when it is back. Snapshots end this after 60 s.
    """

    def __init__(self, redis: LimitStore, holder: str, gateways: int, now_us: Clock) -> None:
        self._redis, self._holder, self._gateways = redis, holder, gateways
        self._now_us = now_us
        self._away, self._again_at_us = False, 0
        self._probe: asyncio.Task[None] | None = None
        self._ledgers: dict[BucketId, Ledger] = {}
        self._extra: defaultdict[BucketId, int] = defaultdict(int)

    async def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """Never raises for a Redis that is away."""
        if not self._away:
            try:
                return await self._ask_redis(asks)
            except AWAY as error:
                log.warning("limits are lent here", reason=f"{type(error).__name__}: {error}")
                self._away = True
        self._probe_sometimes()
        return [self._lend(ask) for ask in asks]

    def _probe_sometimes(self) -> None:
        """Somebody finds out whether Redis is back, and no request waits for it."""
        if self._now_us() >= self._again_at_us and (self._probe is None or self._probe.done()):
            self._again_at_us = self._now_us() + SECOND_US
            self._probe = asyncio.create_task(self._look())

    async def _look(self) -> None:
        try:
            await self._redis.ask([Ask(PROBED)])
        except AWAY:
            return
        self._away = False

    async def _ask_redis(self, asks: Sequence[Ask]) -> list[Answer]:
        told = [replace(ask, extra=self._extra.get(ask.bucket.id, 0)) for ask in asks]
        answers = await self._redis.ask(told)
        for ask in asks:
            self._extra.pop(ask.bucket.id, None)
            self._ledgers.pop(ask.bucket.id, None)
        return answers

    def _lend(self, ask: Ask) -> Answer:
        share, now_us = self._share(ask.bucket), self._now_us()
        ledger = self._ledgers.get(ask.bucket.id)
        if ledger is None:
            known = ask.known_left if ask.known_left >= 0 else share.capacity
            left = known // self._gateways
            debt = max(0, share.capacity - left) * share.scale
            held = {self._holder: (ask.keep + ask.back, now_us + LEASE_US)}
            ledger = self._ledgers[ask.bucket.id] = Ledger(debt, now_us, held)
        answer = ledger.ask(self._holder, replace(ask, bucket=share, told=-1), now_us)
        if not ask.bucket.lent:
            self._extra[ask.bucket.id] += answer.granted
        return answer

    def _share(self, bucket: Bucket) -> Bucket:
        count = self._gateways
        rate = max(1, bucket.per_second // count) if bucket.per_second else 0
        capacity = max(1, bucket.capacity // count) if bucket.lent else bucket.capacity
        return replace(bucket, per_second=rate, capacity=min(bucket.capacity, capacity))
