"""Appends to the spool that share an fsync: those that come while one runs go with the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from prefill_data.metering.frames import MAX_GROUP_RECORDS, MAX_RECORD_BYTES, group_bytes
from prefill_data.metering.spool import Place, Spool, SpoolLost


class _Waiting(NamedTuple):
    body: bytes
    until_ms: int
    place: asyncio.Future[Place]


class GroupCommit:
    """One event loop's way to its spool."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        # One thread: frames are appended one at a time, and an fsync holds up no loop.
        self._disk = ThreadPoolExecutor(1, "spool")
        self._waiting: deque[_Waiting] = deque()
        self._writing = False

    async def append(self, body: bytes, until_ms: int) -> Place:
        """Returns once `body` is on disk; raises what `Spool.append_all` raises."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(body, until_ms, loop.create_future())
        self._waiting.append(waiting)
        if not self._writing:
            self._writing = True
            loop.call_soon(self._write_next, loop)  # with whatever else comes in this turn
        return await waiting.place

    def _write_next(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the thread one group; without a thread everybody who waits has to hear it."""
        while self._waiting:
            group = self._next_group()
            try:
                self._disk.submit(self._write, group, loop)
            except RuntimeError as no_thread:
                _tell(group, [no_thread] * len(group))
            else:
                return
        self._writing = False

    def _next_group(self) -> list[_Waiting]:
        """As many as one frame takes, at least one."""
        group = [self._waiting.popleft()]
        while self._waiting and len(group) < MAX_GROUP_RECORDS:
            bodies = [each.body for each in (*group, self._waiting[0])]
            if group_bytes(bodies) > MAX_RECORD_BYTES:
                break
            group.append(self._waiting.popleft())
        return group

    def _write(self, group: Sequence[_Waiting], loop: asyncio.AbstractEventLoop) -> None:
        """In the thread; the loop hears of it at once, without a future of its own."""
        loop.call_soon_threadsafe(self._written, group, self._places(group), loop)

    def _places(self, group: Sequence[_Waiting]) -> Sequence[Place | BaseException]:
        """What does not fit together may do so one by one: the disk may be almost full."""
        try:
            bodies = [each.body for each in group]
            return self._spool.append_all(bodies, max(each.until_ms for each in group))
        except BaseException as error:  # noqa: BLE001 (whoever waits has to hear it)
            if len(group) == 1 or isinstance(error, SpoolLost):
                return [error] * len(group)
            return [self._places([each])[0] for each in group]

    def _written(
        self,
        group: Sequence[_Waiting],
        places: Sequence[Place | BaseException],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        _tell(group, places)
        self._write_next(loop)

    def close(self) -> None:
        """Finish what is being written, and close the spool."""
        self._disk.shutdown()
        self._spool.close()


def _tell(group: Sequence[_Waiting], places: Sequence[Place | BaseException]) -> None:
    for waiting, place in zip(group, places, strict=True):
        if waiting.place.done():  # its caller has left
            continue
        if isinstance(place, BaseException):
            waiting.place.set_exception(place)
        else:
            waiting.place.set_result(place)
