"""Tells workers which attempts are over, without letting anybody wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prefill_fleet.pb import fleet_pb2

from prefill_data.gateway.fleet import WorkerLink

GATHER_SECONDS = 0.05  # for which a word waits for an Admit that takes it along, or for others
Over = Sequence[fleet_pb2.AttemptName]


class Releases:
    """Words under way; a worker that hears none of them frees the attempt by its lease.

    Each goes with the next Admit to its worker, so that a busy gateway makes no call of its own
    for it and a worker frees before it reserves.
    """

    def __init__(self) -> None:
        self._waiting: dict[WorkerLink, list[fleet_pb2.AttemptName]] = {}
        self._timers: dict[WorkerLink, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def tell(self, link: WorkerLink, request_id: str, attempt: int) -> None:
        """Free an attempt at its worker, soon."""
        self._keep(link, [fleet_pb2.AttemptName(request_id=request_id, attempt=attempt)])

    @contextmanager
    def riding(self, link: WorkerLink) -> Iterator[Over]:
        """What an Admit inside takes along; told again when the worker refused it or is gone."""
        over = self._take(link)
        try:
            yield over
        except BaseException:
            if over:  # a worker that refused may not have looked at them; a word twice does no harm
                self._keep(link, over)
            raise

    async def settle(self) -> None:
        """Wait until every worker told so far has answered, or was given up."""
        for link in list(self._waiting):
            self._send(link)
        await asyncio.gather(*self._tasks)

    def _keep(self, link: WorkerLink, over: Over) -> None:
        self._waiting.setdefault(link, []).extend(over)
        if link not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[link] = loop.call_later(GATHER_SECONDS, self._send, link)

    def _take(self, link: WorkerLink) -> Over:
        timer = self._timers.pop(link, None)
        if timer is not None:
            timer.cancel()
        return self._waiting.pop(link, ())

    def _send(self, link: WorkerLink) -> None:
        task = asyncio.create_task(link.release(self._take(link)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
