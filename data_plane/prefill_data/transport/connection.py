"""One data connection: greeting, proof, then pulls in and chunks out in the order pulled."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from prefill_wire.capability import check_connection_proof, verify_capability
from prefill_wire.channel import Authenticate, Goodbye, Progress, Pull, ServerChannel
from prefill_wire.errors import CapabilityError, LimitExceeded, WireError
from prefill_wire.ids import Random
from prefill_wire.status import StatusCode
from prometheus_client import Counter, Gauge

from prefill_data.errors import DataPlaneError
from prefill_data.transport.places import Places
from prefill_data.transport.store import ChunkStore

log = structlog.get_logger()
READ_BYTES = 4 << 10
WRITE_BYTES = 256 << 10  # what may lie in a connection's buffer beyond the kernel's own
GATHER_BYTES = 64 << 10  # smaller frames go out together: a system call costs more than a copy
MAX_WAITING_PULLS = 1024
HANDSHAKE_SECONDS = 10.0
LINGER_SECONDS = 1.0
PROGRESS_SECONDS = 1.0


class Served(Protocol):
    """What the server needs of an attempt."""

    connection_key: bytes | None
    connections: int

    @property
    def store(self) -> ChunkStore:
        """The chunks."""
        ...

    @property
    def token_count(self) -> int:
        """Tokens of the prompt."""
        ...

    @property
    def done_tokens(self) -> int:
        """Tokens prefilled so far."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlan:
    """What a data server is made of; `find` raises ATTEMPT_NOT_FOUND.

    `max_connections`: those that have proven their attempt's secret; the others have few places.
    """

    worker_id: str
    capability_key: bytes = field(repr=False)
    find: Callable[[str, int], Served]
    now_ms: Callable[[], int]
    random: Random
    max_connections: int
    sent_bytes: Counter
    refusals: Counter
    open_connections: Gauge


def _leave(attempt: Served) -> None:
    attempt.connections -= 1


async def _dead(attempt: Served) -> None:
    """Returns once the attempt has died."""
    while attempt.store.failure is None:
        await attempt.store.changed()


class Connection:
    """One authenticated connection: pulls come in, chunks go out in the order pulled."""

    def __init__(
        self, plan: DataPlan, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._plan, self._reader, self._writer = plan, reader, writer
        self._channel = ServerChannel(plan.random(32))
        self._pulls: deque[Pull] = deque()
        self._gathered = bytearray()  # whole frames that wait to go out together
        self._pulled = asyncio.Event()
        self.request_id = ""  # once its capability was found genuine
        writer.transport.set_write_buffer_limits(high=WRITE_BYTES)

    async def serve(self, places: Places) -> None:
        """Greet, authenticate, then serve until the peer leaves or the attempt ends."""
        with ExitStack() as held:
            try:
                async with places.unproven(HANDSHAKE_SECONDS):
                    await self._send(self._channel.greeting())
                    shown = await self._authentication()
                attempt = self._admit(shown)
                held.enter_context(places.proven())
            except (WireError, DataPlaneError) as error:
                await self._send(self._channel.refuse(error.code, error.message))
                raise
            except TimeoutError:
                log.info("data connection proved nothing in its time")
                return
            attempt.connections += 1
            held.callback(_leave, attempt)
            await self._serve_proven(attempt)

    async def _serve_proven(self, attempt: Served) -> None:
        try:
            await self._send(self._channel.ready())
            await self._serve(attempt)
        except DataPlaneError as error:
            await self._send(self._channel.fail(error.code, error.message))
            raise

    async def _authentication(self) -> Authenticate:
        while True:
            data = await self._reader.read(READ_BYTES)
            if not data:
                raise asyncio.IncompleteReadError(b"", None)
            for event in self._channel.receive(data):
                if isinstance(event, Authenticate):
                    return event
                raise CapabilityError("the first message has to authenticate")

    def _admit(self, shown: Authenticate) -> Served:
        plan = self._plan
        capability = verify_capability(
            plan.capability_key, shown.capability, plan.worker_id, plan.now_ms()
        )
        self.request_id = capability.request_id
        attempt = plan.find(capability.request_id, capability.attempt)
        if attempt.connection_key is None:
            raise CapabilityError("the attempt has no prompt yet")
        check_connection_proof(
            attempt.connection_key, self._channel.nonce, shown.capability, shown.proof
        )
        if attempt.connections >= capability.max_connections:
            raise DataPlaneError(
                StatusCode.TOO_MANY_CONNECTIONS,
                f"{attempt.connections} connections are open, "
                f"the capability allows {capability.max_connections}",
            )
        return attempt

    async def _serve(self, attempt: Served) -> None:
        reading = asyncio.create_task(self._read())
        writing = asyncio.create_task(self._write(attempt))
        dying = asyncio.create_task(_dead(attempt))
        tasks = {reading, writing, dying}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if dying.done() and not reading.done():
                # The writer says so between two frames, unless its peer takes nothing any more.
                await asyncio.wait({writing}, timeout=LINGER_SECONDS)
            for task in (reading, writing):
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> None:
        """Pulls into the queue until the peer leaves."""
        while data := await self._reader.read(READ_BYTES):
            for event in self._channel.receive(data):
                if isinstance(event, Goodbye):
                    return
                if isinstance(event, Pull):
                    self._take(event)

    def _take(self, pull: Pull) -> None:
        if len(self._pulls) >= MAX_WAITING_PULLS:
            raise LimitExceeded.of("pulls that wait", len(self._pulls) + 1, MAX_WAITING_PULLS)
        self._pulls.append(pull)
        self._pulled.set()

    async def _write(self, attempt: Served) -> None:
        while True:
            while not self._pulls:
                self._pulled.clear()
                await self._wait(attempt, self._pulled.wait(), attempt.store.changed())
            pull = self._pulls.popleft()
            for index in range(pull.first, pull.first + pull.count):
                if not await self._send_chunk(attempt, index):
                    await self._gather(self._channel.end(len(attempt.store)))
                    break

    async def _send_chunk(self, attempt: Served, index: int) -> bool:
        """Send one chunk, waiting until it is there; False when there are not so many."""
        store = attempt.store
        while index >= len(store) and not store.finished:
            await self._wait(attempt, store.changed())
            await self._gather(self._channel.progress(self._progress(attempt)))
        if index >= len(store):
            return False
        header, ciphertext = await store.read(index)
        prefix = self._channel.chunk_prefix(header, len(ciphertext))
        if len(ciphertext) < GATHER_BYTES:
            await self._gather(prefix, ciphertext)
        else:
            await self._flush()
            await self._send(prefix)
            view = memoryview(ciphertext)
            for start in range(0, len(view), WRITE_BYTES):
                await self._send(view[start : start + WRITE_BYTES])
        self._plan.sent_bytes.inc(len(ciphertext))
        return True

    async def _wait(self, attempt: Served, *events: Awaitable[object]) -> None:
        """Until an event or a second passed; raises when the attempt has died."""
        waiting = [asyncio.ensure_future(event) for event in events]
        try:
            await self._flush()
            if attempt.store.failure is not None:
                raise attempt.store.failure
            await asyncio.wait(
                waiting, timeout=PROGRESS_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for each in waiting:
                each.cancel()

    def _progress(self, attempt: Served) -> Progress:
        return Progress(attempt.done_tokens, attempt.token_count, len(attempt.store))

    async def _send(self, data: bytes | bytearray | memoryview) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def _gather(self, *parts: bytes) -> None:
        """A small frame: it goes out with others, at the latest before the next wait."""
        for part in parts:
            self._gathered += part
        if len(self._gathered) >= GATHER_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        data, self._gathered = self._gathered, bytearray()
        if data:
            await self._send(data)
