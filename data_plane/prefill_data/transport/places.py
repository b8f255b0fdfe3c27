"""How many sockets a data server holds: proven connections, and a few that have proven nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError

UNPROVEN_PLACES = 64  # an honest peer needs one for two round trips


class Places:
    """Who only holds a socket open takes no place from anybody who has proven the secret.

    In the waiting room the newest wins: when it is full, whoever came first has to go, since an
    honest peer is through it long before so many others have come.
    """

    def __init__(self, proven: int, unproven: int = UNPROVEN_PLACES) -> None:
        self._most_proven, self._most_unproven = proven, unproven
        self._waiting: deque[asyncio.Timeout] = deque()  # in the order in which they came
        self._proven = 0

    @asynccontextmanager
    async def unproven(self, seconds: float) -> AsyncIterator[None]:
        """Time for a handshake: TimeoutError after `seconds`, at once when too many came later."""
        async with asyncio.timeout(seconds) as limit:
            while len(self._waiting) >= self._most_unproven:
                oldest = self._waiting.popleft()
                if not oldest.expired():
                    oldest.reschedule(asyncio.get_running_loop().time())
            self._waiting.append(limit)
            try:
                yield
            finally:
                if limit in self._waiting:
                    self._waiting.remove(limit)

    @contextmanager
    def proven(self) -> Iterator[None]:
        """A place for as long as the connection lasts; CAPACITY_EXHAUSTED when none is free."""
        if self._proven >= self._most_proven:
            raise DataPlaneError(
                StatusCode.CAPACITY_EXHAUSTED,
                f"{self._proven} data connections are open at this worker",
            )
        self._proven += 1
        try:
            yield
        finally:
            self._proven -= 1
