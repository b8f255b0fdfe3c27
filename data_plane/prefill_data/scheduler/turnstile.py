"""One engine, many jobs: who steps next is the rotation's word, and one steps at a time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prefill_data.scheduler.rotation import Rotation


class Turnstile:
    """Grants turns in the fair order of `Rotation`; belongs to one event loop."""

    def __init__(self) -> None:
        self._rotation = Rotation()
        self._waiting: dict[str, tuple[str, asyncio.Future[None]]] = {}
        self._busy = False

    @property
    def waiting(self) -> int:
        """Jobs that wait for a turn."""
        return len(self._waiting)

    @asynccontextmanager
    async def turn(self, tenant: str, job: str) -> AsyncIterator[None]:
        """Waits for this job's turn and holds it; a cancelled wait gives its place up."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[job] = (tenant, granted)
        self._rotation.add(tenant, job)
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if self._waiting.pop(job, None) is None and not granted.cancelled():
                self._leave()  # cancelled in the very moment of the grant
            self._rotation.remove(tenant, job)
            raise
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        self._busy = False
        self._grant()

    def _grant(self) -> None:
        while not self._busy and (job := self._rotation.next()) is not None:
            tenant, granted = self._waiting.pop(job)
            self._rotation.remove(tenant, job)
            if not granted.done():  # a job cancelled in this very moment is passed over
                self._busy = True
                granted.set_result(None)
