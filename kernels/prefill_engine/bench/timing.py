"""Medians of runs that take turns, so that a neighbour's load falls on every side alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence


def in_turns(sides: Sequence[Callable[[], object]], rounds: int, *, warm: int = 1) -> list[float]:
    """Median wall seconds of each side over `rounds`, after `warm` rounds that do not count."""
    seconds: list[list[float]] = [[] for _ in sides]
    for turn in range(warm + rounds):
        for side, kept in zip(sides, seconds, strict=True):
            start = time.perf_counter()
            side()
            if turn >= warm:
                kept.append(time.perf_counter() - start)
    return [statistics.median(kept) for kept in seconds]
