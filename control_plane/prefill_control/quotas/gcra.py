"""GCRA: one number of state per limit, exact at any arrival pattern. Pure; integer microseconds.

The state is the theoretical arrival time of the next conforming request. With `rate` a second and
`burst` at once, at most burst + rate * t are granted in any t seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

SECOND_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Rate:
    """`per_second` in the long run, `burst` at once; both at least 1."""

    per_second: int
    burst: int


@dataclass(frozen=True, slots=True)
class Grant:
    """The outcome for one request; store `arrival_us` only when it was allowed."""

    allowed: bool
    arrival_us: int
    remaining: int
    retry_after_us: int
    reset_us: int


def take(rate: Rate, arrival_us: int, now_us: int, cost: int = 1) -> Grant:
    """Ask for `cost` at `now_us`, given the stored arrival time (0 when there is none)."""
    tolerance = -(-rate.burst * SECOND_US // rate.per_second)
    step = -(-cost * SECOND_US // rate.per_second)
    due = max(arrival_us, now_us) + step
    wait = due - tolerance - now_us
    if cost > rate.burst or wait > 0:
        kept = max(arrival_us, now_us)
        left = max(0, (tolerance - (kept - now_us)) * rate.per_second // SECOND_US)
        return Grant(False, arrival_us, left, max(wait, 0), kept - now_us)
    left = (tolerance - (due - now_us)) * rate.per_second // SECOND_US
    return Grant(True, due, left, 0, due - now_us)
