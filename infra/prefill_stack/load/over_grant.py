"""How far two gateways together go beyond one limit, hammered by 64 clients over a real Redis."""

import asyncio
import time
from dataclasses import dataclass, field

from prefill_data.errors import DataPlaneError
from prefill_data.limits.limiter import Limiter
from prefill_data.limits.store import RedisStore
from prefill_data.redis_client import connect
from prefill_fleet.snapshot import LimitNumbers

CLIENTS, GATEWAYS = 64, 2
PER_SECOND, BURST = 200, 200
PAUSE_SECONDS = 0.01  # a client that is told to wait tries again so soon


def steady_us() -> int:
    """Unix microseconds that never go backwards."""
    return time.time_ns() // 1000


@dataclass
class Hammered:
    """What was let in."""

    granted: int = 0
    refused: int = 0
    moments: list[float] = field(default_factory=list)

    def over_grant(self) -> float:
        """Grants beyond burst + rate * t in the worst stretch from the start, as a share."""
        worst = 0.0
        for count, moment in enumerate(sorted(self.moments), 1):
            allowed = BURST + PER_SECOND * moment
            worst = max(worst, (count - allowed) / allowed)
        return worst


async def hammer(redis_url: str, seconds: float) -> Hammered:
    """Clients that ignore every refusal, half of them at each gateway."""
    numbers = LimitNumbers(requests_per_second=PER_SECOND, requests_burst=BURST)
    clients = [connect(redis_url) for _ in range(GATEWAYS)]
    limiters = [
        Limiter(RedisStore(client, f"bench-{index}", steady_us), steady_us)
        for index, client in enumerate(clients)
    ]
    loop, found = asyncio.get_running_loop(), Hammered()
    renewing = [asyncio.create_task(limiter.run()) for limiter in limiters]
    started = loop.time()

    async def client(limiter: Limiter) -> None:
        while loop.time() < started + seconds:
            try:
                permit = await limiter.admit("ten_bench", "key_bench", (numbers, None), 1)
            except DataPlaneError:
                found.refused += 1
            else:
                found.moments.append(loop.time() - started)
                found.granted += 1
                permit.end(counted=True)
            await asyncio.sleep(PAUSE_SECONDS)

    await asyncio.gather(*(client(limiters[index % GATEWAYS]) for index in range(CLIENTS)))
    for task in renewing:
        task.cancel()
    for limiter, redis in zip(limiters, clients, strict=True):
        await limiter.settle()
        await redis.aclose()
    return found
