"""Tells workers which attempts are over, without letting anybody wait for it."""

from __future__ import annotations

import asyncio

from prefill_data.gateway.fleet import WorkerLink


class Releases:
    """Releases under way; a worker that hears none of them frees the attempt by its lease."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def tell(self, link: WorkerLink, request_id: str, attempt: int) -> None:
        """Free an attempt at its worker, soon."""
        task = asyncio.create_task(link.release(request_id, attempt))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """Wait until every worker told so far has answered, or was given up."""
        await asyncio.gather(*self._tasks)
