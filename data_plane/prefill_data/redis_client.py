"""The one way in which processes here reach Redis."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

ANSWER_SECONDS = 1.0


def connect(url: str) -> Redis:
    """A client that answers or fails soon and tries nothing twice: its callers go on without."""
    return Redis.from_url(
        url,
        socket_timeout=2 * ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
