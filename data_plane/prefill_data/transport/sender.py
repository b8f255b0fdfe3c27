"""What a connection sends: chunks in the order pulled, signs of life while one is not there yet."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from prefill_wire.channel import Progress, Pull, ServerChannel
from prefill_wire.chunks import ChunkHeader
from prefill_wire.errors import LimitExceeded
from prometheus_client import Counter

from prefill_data.transport.store import ChunkStore

WRITE_BYTES = 256 << 10  # what may lie in a connection's buffer beyond the kernel's own
GATHER_BYTES = 64 << 10  # smaller frames go out together: a system call costs more than a copy
MAX_WAITING_PULLS = 1024
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


class Sender:
    """Sends one connection's chunks; `run` is its task, whatever else happens is told to it."""

    def __init__(
        self,
        channel: ServerChannel,
        attempt: Served,
        transport: asyncio.WriteTransport,
        sent_bytes: Counter,
    ) -> None:
        self.attempt = attempt
        self._channel, self._transport = channel, transport
        self._sent_bytes = sent_bytes
        self._pulls: deque[Pull] = deque()
        self._gathered: list[bytes] = []  # frames that wait to go out together
        self._gathered_bytes = 0
        self._pulled, self._changed, self._taken = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._taken.set()

    def pull(self, pull: Pull) -> None:
        """One pull more; LimitExceeded when too many wait."""
        if len(self._pulls) >= MAX_WAITING_PULLS:
            raise LimitExceeded.of("pulls that wait", len(self._pulls) + 1, MAX_WAITING_PULLS)
        self._pulls.append(pull)
        self._pulled.set()

    def store_changed(self) -> None:
        """A chunk has come, the last one has, or the attempt has died."""
        self._changed.set()
        self._pulled.set()  # a death is told to whoever pulls nothing too

    def pause(self) -> None:
        """The peer takes less than it is sent: its buffer is full."""
        self._taken.clear()

    def resume(self) -> None:
        """The peer has taken most of it."""
        self._taken.set()

    async def run(self) -> None:
        """Until cancelled; raises what the attempt died of, between two frames."""
        store = self.attempt.store
        while True:
            while not self._pulls:
                await self._wait(self._pulled)
            pull = self._pulls.popleft()
            for index in range(pull.first, pull.first + pull.count):
                if index >= len(store) and not await self._comes(index):
                    self._gather(self._channel.end(len(store)))
                    break
                await self._send_chunk(*await store.read(index))

    async def _comes(self, index: int) -> bool:
        """Wait until a chunk is there; False when there are not so many."""
        store = self.attempt.store
        while index >= len(store) and not store.finished:
            await self._wait_for_store()
            self._gather(self._channel.progress(self._progress()))
        return index < len(store)

    async def _send_chunk(self, header: ChunkHeader, ciphertext: bytes) -> None:
        size = len(ciphertext)
        self._gather(self._channel.chunk_prefix(header, size))
        if size < GATHER_BYTES:
            self._gather(ciphertext)
            if self._gathered_bytes >= GATHER_BYTES:
                await self._flush()
        else:
            await self._flush()
            view = memoryview(ciphertext)
            for start in range(0, size, WRITE_BYTES):
                await self._send(view[start : start + WRITE_BYTES])
        self._sent_bytes.inc(size)

    def _progress(self) -> Progress:
        attempt = self.attempt
        return Progress(attempt.done_tokens, attempt.token_count, len(attempt.store))

    async def _wait_for_store(self) -> None:
        """Until it has changed, or for as long as a peer should hear nothing."""
        patience = asyncio.get_running_loop().call_later(PROGRESS_SECONDS, self._changed.set)
        try:
            await self._wait(self._changed)
        finally:
            patience.cancel()

    async def _wait(self, event: asyncio.Event) -> None:
        """Until the event comes; raises what the attempt has died of."""
        event.clear()
        await self._flush()
        if self.attempt.store.failure is not None:
            raise self.attempt.store.failure
        await event.wait()

    def _gather(self, data: bytes) -> None:
        """A frame, or a part: it goes out with others, at the latest before the next wait."""
        self._gathered.append(data)
        self._gathered_bytes += len(data)

    async def _flush(self) -> None:
        parts, self._gathered, self._gathered_bytes = self._gathered, [], 0
        if parts:
            await self._send(b"".join(parts))

    async def _send(self, data: bytes | memoryview) -> None:
        self._transport.write(data)
        await self._taken.wait()
