"""Time and chance as the SDK sees them, injected so that tests and simulations bring their own."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from prefill_wire.status import StatusCode

from prefill_cloud.errors import error_for

MAX_DEADLINE_SECONDS = 86_400


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Clock:
    """`monotonic` in seconds, `unix_ms` in Unix milliseconds, `random(n)` gives n bytes."""

    monotonic: Callable[[], float] = time.monotonic
    unix_ms: Callable[[], int] = _unix_ms
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[int], bytes] = os.urandom

    def fraction(self) -> float:
        """A number in [0, 1), for jitter."""
        return int.from_bytes(self.random(4), "little") / 2**32


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on a clock by which something has to be done."""

    clock: Clock
    at_seconds: float

    @classmethod
    def after(cls, clock: Clock, seconds: float) -> Deadline:
        """The deadline `seconds` from now."""
        return cls(clock, clock.monotonic() + seconds)

    def left_seconds(self) -> float:
        """What is left, never below 0."""
        return max(0.0, self.at_seconds - self.clock.monotonic())


def check_deadline(seconds: float) -> None:
    """`InvalidRequestError` unless a deadline is a time from now that a caller may wait for."""
    if not 0.0 < seconds <= MAX_DEADLINE_SECONDS:
        message = f"deadline_seconds is {seconds}, not above 0 and up to {MAX_DEADLINE_SECONDS}."
        raise error_for(StatusCode.MALFORMED_REQUEST, message)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double from `first_seconds` to `most_seconds`, each shortened by up to a half.

    The jitter keeps many SDKs from returning to a restarted gateway at the same moment.
    """

    first_seconds: float = 0.05
    most_seconds: float = 2.0

    def wait_seconds(self, failures: int, fraction: float) -> float:
        """The wait after the given number of failures in a row (1 or more)."""
        whole = min(self.most_seconds, self.first_seconds * 2.0 ** min(failures - 1, 30))
        return whole * (1.0 - fraction / 2.0)
