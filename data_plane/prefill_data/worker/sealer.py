"""Pieces in, sealed chunks out: each piece is cut to chunks, coded, sealed and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
from prefill_engine.engine import Piece
from prefill_kernels.pack import ElementType, PackError, codec
from prefill_wire.codecs import Codec
from prefill_wire.limits import MAX_CHUNK_BYTES
from prefill_wire.manifest import ManifestTensor
from prefill_wire.producer import StateProducer
from prefill_wire.status import StatusCode
from prefill_wire.tensors import PER_TOKEN, StateSchema, TensorKind, TensorSpec

from prefill_data.errors import DataPlaneError
from prefill_data.failpoints import Failpoints
from prefill_data.transport.store import ChunkStore

Cut = tuple[TensorSpec, np.ndarray]
JOB_BYTES = 256 << 10  # tiny chunks go to a thread together: the way there costs more than they do
SHORT_BYTES = 192 << 10  # and none at all below this: at most half a millisecond of the event loop
CHUNK_BYTES = 16 << 10  # what a chunk costs beside its bytes, in bytes coded and sealed


@dataclass(frozen=True, slots=True)
class Bench:
    """What a sealer works with; the clock gives seconds."""

    threads: Executor
    clock: Callable[[], float]
    failpoints: Failpoints


class Sealer:
    """The PieceSink of one attempt. One `put` at a time: the order of chunks is their index.

    `codes`: the codec of every kind of tensor. A chunk that its tensor's codec cannot hold ends
    the attempt: another codec for it alone would be none of what the manifest says.
    """

    def __init__(
        self,
        producer: StateProducer,
        store: ChunkStore,
        codes: Mapping[TensorKind, Codec],
        bench: Bench,
    ) -> None:
        self._producer, self._store, self._codes, self._bench = producer, store, codes, bench
        self._errors: dict[tuple[int, TensorKind], float] = {}
        self._encode_seconds = 0.0
        self.state_tokens = 0
        self.done_tokens = 0

    def progress(self, done_tokens: int) -> None:
        """Kept for the connections' signs of life."""
        self.done_tokens = done_tokens

    async def put(self, *pieces: Piece) -> None:
        """Codes and seals, in a thread what takes long or may go to disk; raises STORAGE_EXHAUSTED
        when the spill disk is full."""
        loop = asyncio.get_running_loop()
        for job in jobs(pieces):
            if self._is_short(job):
                self._seal_all(job)
            else:
                await loop.run_in_executor(self._bench.threads, self._seal_all, job)
            self._store.announce()
            for _ in job:
                self._bench.failpoints.hit("worker.chunk")

    def _is_short(self, job: Iterable[Cut]) -> bool:
        """Most of it holds the interpreter's lock: a thread would hold up the loop as long."""
        cost_bytes = sum(rows.nbytes + CHUNK_BYTES for _, rows in job)
        return cost_bytes <= SHORT_BYTES and self._store.free_bytes >= JOB_BYTES

    def _seal_all(self, job: Iterable[Cut]) -> None:
        for spec, rows in job:
            self._seal(spec, rows)

    def _seal(self, spec: TensorSpec, rows: np.ndarray) -> None:
        began, code = self._bench.clock(), self._codes[spec.kind]
        try:
            encoded = codec(code.wire_name).encode(rows, ElementType(spec.dtype))
        except PackError as error:
            raise DataPlaneError(StatusCode.INTERNAL, f"layer {spec.layer}: {error}") from error
        worst = max(self._errors.get(spec.key, 0.0), encoded.error_bound)
        self._errors[spec.key] = worst
        closing = spec.kind not in PER_TOKEN or spec.token_end == self.state_tokens
        chunk = self._producer.add(spec, encoded.payload, code, closing=closing)
        self._store.add(chunk.header, chunk.ciphertext)
        self._encode_seconds += self._bench.clock() - began

    @property
    def encode_us(self) -> int:
        """Time spent coding and sealing, in microseconds."""
        return int(self._encode_seconds * 1e6)

    def tensors(self, schema: StateSchema) -> tuple[ManifestTensor, ...]:
        """Every tensor of the state with its codec and the largest error that coding made."""
        return tuple(
            ManifestTensor(spec, self._codes[spec.kind], error_bound=self._errors[spec.key])
            for spec in schema.tensors(self.state_tokens)
        )


def jobs(pieces: Iterable[Piece]) -> Iterator[list[Cut]]:
    """The chunks of pieces, in order, as many together as make a job for a thread."""
    job: list[Cut] = []
    waiting_bytes = 0
    for piece in pieces:
        for spec, rows in cut(piece):
            job.append((spec, rows))
            waiting_bytes += rows.nbytes
            if waiting_bytes >= JOB_BYTES:
                yield job
                job, waiting_bytes = [], 0
    if job:
        yield job


def cut(piece: Piece) -> Iterator[Cut]:
    """Ranges of a piece of at most 4 MiB each: by tokens for caches, by heads for states.

    So no range tears a row or a head's matrix: what shares a scale stays in one chunk.
    """
    spec, array = piece.spec, piece.array
    grows = spec.kind in PER_TOKEN
    first, last = (spec.token_start, spec.token_end) if grows else (spec.head_start, spec.head_end)
    rows = array.shape[0] // (last - first)
    unit_bytes = array.nbytes // (last - first)
    if unit_bytes > MAX_CHUNK_BYTES:
        raise DataPlaneError(
            StatusCode.INTERNAL,
            f"layer {spec.layer}: one row of {unit_bytes} bytes, a chunk holds {MAX_CHUNK_BYTES}",
        )
    step = MAX_CHUNK_BYTES // unit_bytes
    if last - first <= step:
        yield spec, array
        return
    for start in range(first, last, step):
        end = min(start + step, last)
        part = array[rows * (start - first) : rows * (end - first)]
        if grows:
            yield replace(spec, shape=part.shape, token_start=start, token_end=end), part
        else:
            yield replace(spec, shape=part.shape, head_start=start, head_end=end), part
