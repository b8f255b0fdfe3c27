"""Appends to the spool that share an fsync: those that come while one runs go with the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from prefill_data.metering.frames import MAX_GROUP_RECORDS, MAX_RECORD_BYTES, group_bytes
from prefill_data.metering.spool import Place, Spool, SpoolLost


@dataclass(frozen=True, slots=True)
class _Waiting:
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
        self._writing: asyncio.Task[None] | None = None

    async def append(self, body: bytes, until_ms: int) -> Place:
        """Returns once `body` is on disk; raises what `Spool.append_all` raises."""
        place: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(body, until_ms, place))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())
        return await place

    async def _write_all(self) -> None:
        while self._waiting:
            await self._write(self._next_group())

    def _next_group(self) -> list[_Waiting]:
        """As many as one frame takes, at least one."""
        group = [self._waiting.popleft()]
        while self._waiting and len(group) < MAX_GROUP_RECORDS:
            bodies = [each.body for each in (*group, self._waiting[0])]
            if group_bytes(bodies) > MAX_RECORD_BYTES:
                break
            group.append(self._waiting.popleft())
        return group

    async def _write(self, group: Sequence[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        bodies = [each.body for each in group]
        until_ms = max(each.until_ms for each in group)
        try:
            written = loop.run_in_executor(self._disk, self._spool.append_all, bodies, until_ms)
        except RuntimeError as no_thread:  # whoever waits has to hear it
            await self._failed(group, no_thread)
            return
        await asyncio.wait([written])
        error = written.exception()
        if error is not None:
            await self._failed(group, error)
            return
        for each, place in zip(group, written.result(), strict=True):
            if not each.place.done():
                each.place.set_result(place)

    async def _failed(self, group: Sequence[_Waiting], error: BaseException) -> None:
        """What does not fit together may do so one by one: the disk may be almost full."""
        if len(group) > 1 and not isinstance(error, SpoolLost):
            for each in group:
                await self._write([each])
            return
        for each in group:
            if not each.place.done():
                each.place.set_exception(error)

    def close(self) -> None:
        """Finish what is being written, and close the spool."""
        self._disk.shutdown()
        self._spool.close()
