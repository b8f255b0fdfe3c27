"""Open-loop load: calls begin when they are due, whether or not earlier ones have ended.

A latency counts from the moment a call was due, so a server that falls behind cannot hide it.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
import psutil

Call = Callable[[int], Awaitable[None]]


@dataclass(frozen=True)
class Offered:
    """What was asked for: calls a second, for so long; arrivals are Poisson."""

    per_second: float
    seconds: float
    seed: int = 7

    def moments(self) -> list[float]:
        """When each call is due, in seconds from the start."""
        chance = np.random.default_rng(self.seed)
        count = round(self.per_second * self.seconds)
        gaps = chance.exponential(1 / self.per_second, count)
        return [float(moment) for moment in np.cumsum(gaps)]


@dataclass(frozen=True)
class Measured:
    """Latencies in seconds, in the order in which calls were due, and how long all took."""

    latencies: Sequence[float]
    took_seconds: float

    @property
    def per_second(self) -> float:
        """Calls that ended, a second."""
        return len(self.latencies) / self.took_seconds

    def quantile_ms(self, share: float) -> float:
        """The latency below which this share of the calls lies; milliseconds."""
        return round(1000 * float(np.quantile(self.latencies, share)), 3)


async def open_loop(offered: Offered, call: Call) -> Measured:
    """Begin each call when it is due; returns when all have ended. A failed call ends the bench."""
    loop, moments = asyncio.get_running_loop(), offered.moments()
    latencies = [0.0] * len(moments)
    started = loop.time()

    async def one(number: int, due: float) -> None:
        await call(number)
        latencies[number] = loop.time() - due

    async with asyncio.TaskGroup() as group:
        for number, moment in enumerate(moments):
            due = started + moment
            if (early := due - loop.time()) > 0:
                await asyncio.sleep(early)
            group.create_task(one(number, due))
    return Measured(latencies, loop.time() - started)


async def closed_loop(callers: int, calls: int, call: Call) -> Measured:
    """So many callers, each begins its next call when its last has ended: the most there is."""
    loop = asyncio.get_running_loop()
    numbers, latencies = iter(range(calls)), []
    started = loop.time()

    async def caller() -> None:
        for number in numbers:
            before = loop.time()
            await call(number)
            latencies.append(loop.time() - before)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return Measured(latencies, loop.time() - started)


def cpu_seconds(pid: int) -> float:
    """What a process has computed so far: unlike a latency it hardly depends on neighbours."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def neighbours() -> dict[str, float]:
    """How much else the machine did: processes that wanted a core in the last minute."""
    return {"load_average_1_minute": round(os.getloadavg()[0], 1)}
