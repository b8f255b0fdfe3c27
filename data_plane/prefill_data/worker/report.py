"""What a worker tells about itself."""

from __future__ import annotations

from collections.abc import Callable

from prefill_fleet.credential import Credential, Role
from prefill_fleet.heartbeat import Heartbeat
from prefill_fleet.names import WORKER_BEATS_KEY
from prefill_wire.signing import SigningKey
from redis.asyncio import Redis

from prefill_data.heartbeats import Herald, installed_version
from prefill_data.settings import WorkerSettings
from prefill_data.worker.attempts import AttemptBook


def worker_herald(
    settings: WorkerSettings,
    redis: Redis,
    book: AttemptBook,
    endpoint: str,
    now_ms: Callable[[], int],
) -> Herald:
    """Signed with the key of its certificate; `endpoint` is where gateways reach it."""
    started_at_ms = now_ms()
    key = SigningKey.from_seed(settings.key_seed)
    credential = Credential(Role.WORKER, settings.certificate, key)

    def look() -> Heartbeat:
        return Heartbeat(
            name=settings.worker_id,
            datacenter=settings.datacenter,
            version=installed_version(),
            at_ms=now_ms(),
            started_at_ms=started_at_ms,
            endpoint=endpoint,
            attempts_in_flight=len(book),
            memory_used_bytes=book.reserved_bytes,
            memory_cap_bytes=settings.memory_cap_bytes,
            models=tuple(sorted(settings.checkpoints)),
        )

    return Herald(redis, WORKER_BEATS_KEY, credential, look)
