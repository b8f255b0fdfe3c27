"""Our backend: step engines, one thread that steps them, turns shared fairly among tenants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prefill_engine.engine import Handle, Piece, StepEngine
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.scheduler.turnstile import Turnstile
from prefill_data.worker.backend import ModelCapability, PieceSink, PrefillJob, PrefillTimes

Clock = Callable[[], float]


@dataclass(slots=True)
class _Times:
    """Seconds of own steps; the rest of a job's wall time was waiting."""

    steps: float = 0.0


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
        engine, times, started = self._engine(job.model), _Times(), self._clock()
        async with self._sequence(engine, job, times) as handle:
            position, delivery = 0, asyncio.create_task(sink.put())  # nothing yet
            try:
                while position < job.state_tokens:
                    count = min(engine.step_tokens, job.state_tokens - position)
                    position += count
                    work = lambda n=count, last=position == job.state_tokens: _step(  # noqa: E731
                        engine, handle, n, last
                    )
                    pieces = await self._in_turn(job, work, times)
                    sink.progress(position)
                    await delivery
                    delivery = asyncio.create_task(sink.put(*pieces))
                    delivery.add_done_callback(_heard)
                computed = self._clock()
                await delivery
            finally:
                delivery.cancel()
        queued = computed - started - times.steps
        return PrefillTimes(int(queued * 1e6), int(times.steps * 1e6))

    async def close(self) -> None:
        """Waits for the step under way; nothing starts after it."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    def _engine(self, model: str) -> StepEngine:
        if model not in self._engines:
            raise DataPlaneError(StatusCode.UNKNOWN_MODEL, f"model {model!r} is not served here")
        return self._engines[model]

    @asynccontextmanager
    async def _sequence(
        self, engine: StepEngine, job: PrefillJob, times: _Times
    ) -> AsyncIterator[Handle]:
        tokens = job.tokens[: job.state_tokens]
        opening = self._thread.submit(engine.open, tokens)
        try:
            yield await asyncio.wrap_future(opening)
        finally:
            # Behind whatever still runs in the thread, also when this job was cancelled meanwhile.
            self._thread.submit(lambda: engine.close(opening.result()))

    async def _in_turn(
        self, job: PrefillJob, work: Callable[[], Sequence[Piece]], times: _Times
    ) -> Sequence[Piece]:
        async with self._turnstile.turn(job.tenant, job.job_id):
            began = self._clock()
            pieces = await asyncio.wrap_future(self._thread.submit(work))
            times.steps += self._clock() - began
        return pieces


def _step(engine: StepEngine, handle: Handle, count: int, last: bool) -> list[Piece]:
    pieces = engine.step([(handle, count)])
    return pieces + engine.snapshot(handle) if last else pieces


def _heard(delivery: asyncio.Task[None]) -> None:
    """A job that is cancelled no longer asks how its last delivery went."""
    if not delivery.cancelled():
        delivery.exception()
