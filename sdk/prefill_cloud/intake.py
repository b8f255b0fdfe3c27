"""Chunks into the receiver, off the event loop: opened and decoded as they come, within bounds."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Executor

import numpy as np
from prefill_kernels.pack import ElementType, max_payload_bytes
from prefill_kernels.pack import codec as pack_codec
from prefill_wire.channel import ChunkReceived
from prefill_wire.chunks import ChunkHeader, Role
from prefill_wire.codecs import Codec
from prefill_wire.errors import IntegrityError
from prefill_wire.receiver import StateReceiver, VerifiedState
from prefill_wire.tensors import TensorSpec


def decode_payload(codec: Codec, payload: bytes, spec: TensorSpec, out: np.ndarray) -> None:
    """One chunk's payload into its range of a tensor, by the codec that its header names."""
    pack_codec(codec.wire_name).decode(payload, ElementType(spec.dtype), out)


class Intake:
    """Feeds one receiver from several connections; a lock keeps it to one thread at a time.

    A state's pieces together are exactly the schema's bytes, so a worker that sends more is
    refused before it is stored: the closing set is held until the claim and would grow otherwise.
    """

    def __init__(self, receiver: StateReceiver, state_bytes: int, threads: Executor) -> None:
        self._receiver, self._threads = receiver, threads
        self._lock = threading.Lock()
        self._left_bytes = state_bytes
        self._seen: set[int] = set()
        self.open_seconds = 0.0

    async def accept(self, chunks: Iterable[ChunkReceived]) -> None:
        """Open chunks in a thread, in their order; a `WireError` refuses the whole state."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._accept, chunks)

    def _accept(self, chunks: Iterable[ChunkReceived]) -> None:
        with self._lock:
            started = time.perf_counter()
            for chunk in chunks:
                self._bound(chunk.header)
                self._receiver.accept(chunk.header, chunk.ciphertext)
            self.open_seconds += time.perf_counter() - started

    def _bound(self, header: ChunkHeader) -> None:
        if header.role is not Role.PIECE or header.index in self._seen:
            return
        self._seen.add(header.index)
        self._left_bytes -= header.raw_bytes
        if self._left_bytes < 0:
            raise IntegrityError(f"chunk {header.index} makes the state larger than the model's")
        most = max_payload_bytes(header.codec.wire_name, header.raw_bytes)
        if header.payload_bytes > most:
            raise IntegrityError(
                f"chunk {header.index} codes {header.raw_bytes} bytes as {header.payload_bytes}"
            )

    async def close(self, sealed_manifest: bytes, receipt: bytes, now_ms: int) -> VerifiedState:
        """Verify all and open the closing set, in a thread."""
        loop = asyncio.get_running_loop()
        arguments = (sealed_manifest, receipt, now_ms)
        return await loop.run_in_executor(self._threads, self._close, *arguments)

    def _close(self, sealed_manifest: bytes, receipt: bytes, now_ms: int) -> VerifiedState:
        with self._lock:
            started = time.perf_counter()
            state = self._receiver.close(sealed_manifest, receipt, now_ms)
            self.open_seconds += time.perf_counter() - started
            return state

    def abandon(self) -> None:
        """Zero the buffers and spend the receiver; waits for the chunk that a thread is opening."""
        with self._lock:
            self._receiver.abandon()
