"""Which chunks are asked for, owed and held: the ledger that an attempt's connections share."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from prefill_wire.errors import IntegrityError
from prefill_wire.limits import MAX_CHUNKS


class Pulls:
    """Hands out indices, lowest first; takes back what a broken connection still owed.

    How many chunks there are is unknown until the worker says so: connections ask beyond the end.
    """

    def __init__(self) -> None:
        self._next = 0
        self._returned: list[int] = []
        self._held: set[int] = set()
        self._highest = -1  # of those held: a worker may say the end often
        self.chunk_count: int | None = None

    def take(self, room: int) -> list[int]:
        """Up to `room` indices that nobody holds or waits for."""
        taken: list[int] = []
        end = MAX_CHUNKS if self.chunk_count is None else self.chunk_count
        while len(taken) < room:
            if self._returned:
                index = heapq.heappop(self._returned)
            elif self._next <= end:
                index, self._next = self._next, self._next + 1
            else:
                break
            if index not in self._held and (self.chunk_count is None or index < self.chunk_count):
                taken.append(index)
        return taken

    def give_back(self, indices: Iterable[int]) -> None:
        """What a connection asked for and did not get."""
        for index in indices:
            heapq.heappush(self._returned, index)

    def hold(self, index: int) -> None:
        """A chunk has come."""
        self._held.add(index)
        self._highest = max(self._highest, index)

    def end(self, chunk_count: int) -> None:
        """The worker says how many there are; `IntegrityError` when that cannot be."""
        said = self.chunk_count
        if said is not None and said != chunk_count:
            raise IntegrityError(f"the state had {said} chunks and now has {chunk_count}")
        if chunk_count < 1 or self._highest >= chunk_count:
            raise IntegrityError(f"a state of {chunk_count} chunks, {len(self._held)} are held")
        self.chunk_count = chunk_count

    @property
    def held(self) -> int:
        """Chunks that have come."""
        return len(self._held)

    @property
    def complete(self) -> bool:
        """Whether every chunk of the state has come."""
        return self.chunk_count is not None and len(self._held) == self.chunk_count


def runs(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Indices as (first, count), neighbours joined: what PULL frames carry."""
    found: list[tuple[int, int]] = []
    for index in indices:
        if found and index == found[-1][0] + found[-1][1]:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((index, 1))
    return found
