"""Our backend: step engines, one thread that steps them, turns shared fairly among tenants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from prefill_engine.engine import Handle, Piece, StepEngine
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.scheduler.turnstile import Turnstile
from prefill_data.worker.backend import ModelCapability, PieceSink, PrefillJob, PrefillTimes

Clock = Callable[[], float]


@dataclass(slots=True)
class _Sequence:
    """A job's sequence, the engine's thread's alone: opened by its first step, closed by its last,
    so that a short prompt is one way to the thread and back."""

    engine: StepEngine
    tokens: np.ndarray
    handle: Handle | None = None

    def step(self, count: int) -> list[Piece]:
        """The pieces of the next tokens; with the last of them the snapshot too."""
        if self.handle is None:
            self.handle = self.engine.open(self.tokens)
        pieces = self.engine.step([(self.handle, count)])
        if self.engine.position(self.handle) == len(self.tokens):
            pieces += self.engine.snapshot(self.handle)
            self.close()
        return pieces

    def close(self) -> None:
        """Frees what it holds; also before its first step and after its last."""
        if self.handle is not None:
            self.engine.close(self.handle)
            self.handle = None


class StepBackend:
    """Satisfies PrefillBackend; engines are only ever touched by its one thread."""

    def __init__(self, engines: Mapping[str, StepEngine], clock: Clock) -> None:
        self._engines, self._clock = dict(engines), clock
        self._thread = ThreadPoolExecutor(1, "engine")
        self._turnstile = Turnstile()

    def capabilities(self) -> tuple[ModelCapability, ...]:
        """The engines' models, under the names they are served by."""
        return tuple(
            ModelCapability(engine.identity, engine.schema, engine.max_tokens, engine.vocab_size)
            for engine in self._engines.values()
        )

    def sequence_bytes(self, model: str, token_count: int) -> int:
        """Caches of a sequence, as the engine allocates them."""
        return self._engine(model).sequence_bytes(token_count)

    async def submit(self, job: PrefillJob, sink: PieceSink) -> PrefillTimes:
        """One step and its delivery overlap; a second delivery waits for the first."""
        engine, started, position, own_seconds = self._engine(job.model), self._clock(), 0, 0.0
        sequence = _Sequence(engine, job.tokens[: job.state_tokens])
        delivery: asyncio.Task[None] | None = None
        try:
            while True:
                count = min(engine.step_tokens, job.state_tokens - position)
                async with self._turnstile.turn(job.tenant, job.job_id):
                    began = self._clock()
                    step = self._thread.submit(sequence.step, count)
                    pieces = await asyncio.wrap_future(step)
                    own_seconds += self._clock() - began
                position += count
                sink.progress(position)
                if delivery is not None:
                    await delivery
                if position == job.state_tokens:
                    break
                delivery = asyncio.create_task(sink.put(*pieces))
                delivery.add_done_callback(_heard)
            queued_seconds = self._clock() - started - own_seconds
            await sink.put(*pieces)
        finally:
            if delivery is not None:
                delivery.cancel()
            if position < job.state_tokens:
                # Behind whatever still runs in the thread, also when this job was cancelled.
                self._thread.submit(sequence.close)
        return PrefillTimes(int(queued_seconds * 1e6), int(own_seconds * 1e6))

    async def close(self) -> None:
        """Waits for the step under way; nothing starts after it."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    def _engine(self, model: str) -> StepEngine:
        if model not in self._engines:
            raise DataPlaneError(StatusCode.UNKNOWN_MODEL, f"model {model!r} is not served here")
        return self._engines[model]


def _heard(delivery: asyncio.Task[None]) -> None:
    """A job that is cancelled no longer asks how its last delivery went."""
    if not delivery.cancelled():
        delivery.exception()
