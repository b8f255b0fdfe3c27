"""Where a gateway's keys and limits come from: the control plane's live state, or its key file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from prefill_data.errors import SettingsError
from prefill_data.gateway.callers import KeyFileSource, KeySource
from prefill_data.gateway.keys import KeyFile
from prefill_data.gateway.snapshot_feed import SnapshotFeed
from prefill_data.gateway.snapshots import SnapshotKeys, SnapshotState
from prefill_data.limits.kept import KeptQuotas
from prefill_data.limits.limiter import Limiter
from prefill_data.limits.store import LocalStore, RedisStore, SurvivingStore
from prefill_data.redis_client import connect
from prefill_data.settings import GatewaySettings

Clock = Callable[[], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """`feed`, `redis` and `kept` are None for a gateway that stands alone."""

    keys: KeySource
    limiter: Limiter
    feed: SnapshotFeed | None = None
    redis: Redis | None = None
    kept: KeptQuotas | None = None

    async def close(self) -> None:
        """Keep what is known of quotas, give up the connections."""
        await self.limiter.settle()
        if self.kept is not None:
            await self.kept.save()
        if self.redis is not None:
            await self.redis.aclose()


def go_live(settings: GatewaySettings, registry: CollectorRegistry, now_ms: Clock) -> Live:
    """By the settings; nothing is connected before it is used."""
    link, steady = settings.link, steady_us(now_ms)
    if not link.redis_url:
        if settings.key_file is None:
            raise SettingsError("PREFILL_KEY_FILE is not set", "set it, or PREFILL_REDIS_URL_FILE")
        keys = KeyFile(settings.key_file, now_ms)
        source = KeyFileSource(keys, settings.price_micros_per_million_tokens)
        return Live(keys=source, limiter=Limiter(LocalStore(settings.gateway_id, steady), steady))
    if not link.api_key_pepper:
        raise SettingsError(
            "PREFILL_API_KEY_PEPPER_FILE is not set", "keys cannot be checked without it"
        )
    redis = connect(link.redis_url)
    state = SnapshotState()
    lender = RedisStore(redis, settings.gateway_id, steady)
    store = SurvivingStore(lender, settings.gateway_id, link.gateways, steady)
    limiter = Limiter(store, steady)
    kept = KeptQuotas(settings.spool_dir, limiter.book.memory)
    kept.recall()
    return Live(
        keys=SnapshotKeys(state, link.api_key_pepper, now_ms),
        limiter=limiter,
        feed=SnapshotFeed(redis, settings.control_public_key, state, registry),
        redis=redis,
        kept=kept,
    )


def steady_us(now_ms: Clock) -> Callable[[], int]:
    """Unix microseconds as of now that never jump, whatever is done to the clock later."""
    start_us = 1000 * now_ms() - time.monotonic_ns() // 1000
    return lambda: start_us + time.monotonic_ns() // 1000
