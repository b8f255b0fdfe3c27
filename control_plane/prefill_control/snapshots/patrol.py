"""The round over all tenants that finds what no change told of, a few at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from prefill_control.snapshots.service import Publisher

ROUND_SECONDS = 300.0
LEAST_TENANTS = 50


class Patrol:
    """Every tenant once a round: keys whose end grew old, and what somebody else wrote or lost;
    entries of nobody go."""

    def __init__(self, publisher: Publisher, step_seconds: float) -> None:
        self._publisher, self._steps = publisher, int(ROUND_SECONDS / step_seconds)
        self._waiting: deque[str] = deque()
        self._at_once = LEAST_TENANTS

    @property
    def waiting(self) -> int:
        """Tenants that this round has not come to."""
        return len(self._waiting)

    async def step(self) -> Collection[str] | None:
        """Those of the next few tenants whose entry is behind; None: everybody's."""
        if not self._waiting:
            await self._publisher.sweep()
            everybody = await self._publisher.everybody()
            if everybody is None:
                return None
            self._waiting.extend(everybody)
            self._at_once = max(LEAST_TENANTS, -(-len(everybody) // self._steps))
        count = min(self._at_once, len(self._waiting))
        return await self._publisher.differing([self._waiting.popleft() for _ in range(count)])

    async def whole_round(self) -> Collection[str] | None:
        """The same over everybody, now: changes may have been missed."""
        everybody = await self._publisher.everybody()
        return None if everybody is None else await self._publisher.differing(everybody)
