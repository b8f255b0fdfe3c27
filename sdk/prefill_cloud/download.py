"""All chunks of an attempt over 1 to 4 connections; a broken one resumes with what is missing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import cast

from prefill_wire.channel import ChunkReceived, ClientEvent, End, Failed, Progress, Refused
from prefill_wire.errors import ChannelError, WireError
from prefill_wire.status import StatusCode

from prefill_cloud.clock import Clock
from prefill_cloud.connection import ConnectionLost, DataConnection, DataTarget
from prefill_cloud.errors import PrefillCloudError, error_for
from prefill_cloud.intake import Intake
from prefill_cloud.logs import logger
from prefill_cloud.pulls import Pulls, runs
from prefill_cloud.tuning import Tuning

# A worker says these of one connection, not of the attempt: its place may come free.
_REFUSALS_THAT_PASS = frozenset({StatusCode.TOO_MANY_CONNECTIONS, StatusCode.CAPACITY_EXHAUSTED})


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """How far a prefill is: tokens computed by the worker, chunks and sealed bytes held here."""

    done_tokens: int
    total_tokens: int
    chunks: int
    received_bytes: int


class Download:
    """Pulls one attempt's chunks into its intake; run once.

    Memory: a connection buffers at most twice `read_bytes`, one frame, and the chunks that one
    read completed and a thread is opening; nothing is read while those are not done.
    """

    def __init__(
        self,
        target: DataTarget,
        intake: Intake,
        *,
        tuning: Tuning,
        clock: Clock,
        request_id: str,
        on_progress: Callable[[PrefillProgress], None] | None = None,
    ) -> None:
        self._target, self._intake = target, intake
        self._tuning, self._clock = tuning, clock
        self._request_id, self._log = request_id, logger(request_id)
        self._on_progress = on_progress
        self._pulls = Pulls()
        self._changed = asyncio.Event()
        self._lost = ConnectionLost("no connection was tried")
        self._failed: PrefillCloudError | WireError | None = None
        self._tokens = (0, 0)
        self.received_bytes = self.first_chunk_bytes = 0
        self.first_chunk_seconds: float | None = None
        self.last_chunk_seconds = 0.0

    @property
    def wire_seconds(self) -> float:
        """From the first chunk to the last: `wire_bytes` came meanwhile."""
        first = self.first_chunk_seconds
        return 0.0 if first is None else self.last_chunk_seconds - first

    @property
    def wire_bytes(self) -> int:
        """Bytes of every chunk but the first, whose beginning nobody timed."""
        return self.received_bytes - self.first_chunk_bytes

    async def run(self, connections: int) -> int:
        """Pull everything; the number of chunks. Raises `PrefillCloudError` or a `WireError`."""
        tasks = [asyncio.create_task(self._work()) for _ in range(connections)]
        try:
            waiting = set(tasks)
            while waiting and not self._pulls.complete and self._failed is None:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if any(task.exception() for task in done if not task.cancelled()):
                    break  # a fault of the caller's callback, or of ours
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        if self._failed is not None:
            raise self._failed
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        count = self._pulls.chunk_count
        if count is None or not self._pulls.complete:
            where, held = self._target.endpoint.text, self._pulls.held
            message = f"the data channel at {where} is lost: {self._lost}; chunks held: {held}."
            raise error_for(StatusCode.NETWORK_UNAVAILABLE, message, self._request_id)
        return count

    async def _work(self) -> None:
        """One connection after another until all is held, or too many in a row brought nothing."""
        failures = 0
        while not self._pulls.complete:
            before = self._pulls.held
            try:
                await self._one_connection()
                return
            except ConnectionLost as error:
                self._lost = error
            except (PrefillCloudError, WireError) as error:
                self._failed = self._failed or error  # the others fail after the first, and by it
                return
            failures = 1 if self._pulls.held > before else failures + 1
            self._log.info("connection_lost", reason=str(self._lost), failures=failures)
            if failures > self._tuning.reconnects:
                return
            wait = self._tuning.backoff.wait_seconds(failures, self._clock.fraction())
            await self._clock.sleep(wait)

    async def _one_connection(self) -> None:
        connection = await DataConnection.open(self._target, self._tuning)
        outstanding: deque[int] = deque()
        try:
            while not self._pulls.complete:
                if connection.ready:
                    await self._ask_for_more(connection, outstanding)
                if connection.ready and not outstanding:
                    await self._idle()
                    continue
                for kind, events in groupby(await connection.events(), type):
                    if kind is ChunkReceived:
                        await self._open(cast(Iterator[ChunkReceived], events), outstanding)
                    else:
                        self._hear(events, outstanding)
        finally:
            self._pulls.give_back(outstanding)
            self._wake()
            connection.leave()

    async def _ask_for_more(self, connection: DataConnection, outstanding: deque[int]) -> None:
        room = self._tuning.window_chunks - len(outstanding)
        if room > self._tuning.window_chunks // 2:  # asking for one at a time would be chatter
            indices = self._pulls.take(room)
            outstanding.extend(indices)
            await connection.ask(runs(indices))

    async def _idle(self) -> None:
        """Nothing is left to ask for: wait for the others to finish, or to give something back."""
        changed = self._changed
        await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _open(self, chunks: Iterator[ChunkReceived], outstanding: deque[int]) -> None:
        """Those that came together go to a thread together: small ones cost less than the way."""
        came = []
        for chunk in chunks:
            if chunk.header.index not in outstanding:
                raise ChannelError(f"chunk {chunk.header.index} came unasked")
            outstanding.remove(chunk.header.index)
            self._count(len(chunk.ciphertext))
            came.append(chunk)
        await self._intake.accept(came)
        for chunk in came:
            self._pulls.hold(chunk.header.index)
            self._tell()
        self._wake_when_complete()

    def _hear(self, events: Iterable[ClientEvent], outstanding: deque[int]) -> None:
        for event in events:
            match event:
                case End(chunk_count):
                    self._pulls.end(chunk_count)
                    for index in [index for index in outstanding if index >= chunk_count]:
                        outstanding.remove(index)
                case Progress(done_tokens, total_tokens, _):
                    if (done_tokens, total_tokens) > self._tokens:  # every connection is told
                        self._tokens = (done_tokens, total_tokens)
                        self._tell()
                case Refused(code, message) if code in _REFUSALS_THAT_PASS:
                    raise ConnectionLost(f"refused with {code}: {message}")
                case Refused(code, message) | Failed(code, message):
                    raise error_for(code, f"the worker says: {message}.", self._request_id)
        self._wake_when_complete()

    def _wake_when_complete(self) -> None:
        if self._pulls.complete:
            self._wake()

    def _count(self, size_bytes: int) -> None:
        now = self._clock.monotonic()
        if self.first_chunk_seconds is None:
            self.first_chunk_seconds, self.first_chunk_bytes = now, size_bytes
        self.last_chunk_seconds = now
        self.received_bytes += size_bytes

    def _tell(self) -> None:
        if self._on_progress is not None:
            held = (self._pulls.held, self.received_bytes)
            self._on_progress(PrefillProgress(*self._tokens, *held))
