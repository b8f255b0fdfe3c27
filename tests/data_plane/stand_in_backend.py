"""A PrefillBackend without a model: numpy pieces by a schema, in steps that a test lets pass."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np
from prefill_data.errors import DataPlaneError
from prefill_data.scheduler.turnstile import Turnstile
from prefill_data.worker.backend import ModelCapability, PrefillTimes
from prefill_engine.engine import Piece
from prefill_wire.identity import ModelIdentity
from prefill_wire.status import StatusCode
from prefill_wire.tensors import PER_TOKEN, Dtype, LayerState, Layout, StateSchema, TensorKind

IDENTITY = ModelIdentity("tiny", b"m" * 32, b"t" * 32, "fp32")
SCHEMA = StateSchema(
    (
        LayerState(0, TensorKind.RECURRENT, Dtype.FLOAT32, Layout.K_FIRST, (2, 4, 4), 2),
        LayerState(0, TensorKind.CONV, Dtype.FLOAT32, Layout.CHANNEL_MAJOR, (24, 3), 1),
        LayerState(1, TensorKind.LATENT_KV, Dtype.BFLOAT16, Layout.TOKEN_MAJOR, (12,), 1),
    )
)
VOCABULARY = 1000
MAX_TOKENS = 1 << 20


def state_of(tokens, schema=SCHEMA):
    """Tensors that depend on the prompt: another prompt's state is another state."""
    rng = np.random.default_rng(np.asarray(tokens, np.uint32)[:64])
    state = {}
    for spec in schema.tensors(len(tokens) - 1):
        drawn = rng.bytes(spec.nbytes)
        values = np.frombuffer(drawn, spec.dtype.numpy_name).reshape(spec.shape)
        state[spec.key] = np.nan_to_num(values) if spec.dtype is Dtype.FLOAT32 else values
    return state


class StandInBackend:
    """Counts what it is asked for. With `hold()` every step waits until a test calls `allow`.

    `failure`, when set, is what the next step raises.
    """

    def __init__(self, schema=SCHEMA, step_tokens=4, state_of=state_of):
        self.schema, self.step_tokens, self.state_of = schema, step_tokens, state_of
        self.submits, self.steps, self.cancelled, self.failure = [], [], [], None
        self.running = 0
        self._permits = None
        self._moved = asyncio.Condition()
        self._turnstile = Turnstile()

    def capabilities(self):
        return (ModelCapability(IDENTITY, self.schema, MAX_TOKENS, VOCABULARY),)

    def sequence_bytes(self, model, token_count):
        return self.schema.nbytes(token_count)

    def hold(self):
        """From now on no step ends by itself."""
        self._permits = asyncio.Semaphore(0)

    def allow(self, steps=1):
        """Let so many steps pass."""
        for _ in range(steps):
            self._permits.release()

    def release(self):
        """Let everything pass."""
        permits, self._permits = self._permits, None
        for _ in range(1000):
            permits.release()

    async def until(self, holds):
        """Waits until `holds(self)`."""
        async with self._moved:
            await self._moved.wait_for(lambda: holds(self))

    async def _tell(self):
        async with self._moved:
            self._moved.notify_all()

    async def submit(self, job, sink):
        self.submits.append(job)
        async with self._counted(job):
            state = self.state_of(job.tokens, self.schema)
            position = 0
            while position < job.state_tokens:
                count = min(self.step_tokens, job.state_tokens - position)
                async with self._turnstile.turn(job.tenant, job.job_id):
                    await self._step(job)
                for spec in self.schema.tensors(job.state_tokens):
                    if spec.kind in PER_TOKEN:
                        await sink.put(_rows(spec, state, position, position + count))
                position += count
                sink.progress(position)
            for spec in self.schema.tensors(job.state_tokens):
                if spec.kind not in PER_TOKEN:
                    await sink.put(Piece(spec, state[spec.key]))
        return PrefillTimes(1000, 2000)

    @asynccontextmanager
    async def _counted(self, job):
        self.running += 1
        try:
            yield
        except asyncio.CancelledError:
            self.cancelled.append(job.job_id)
            raise
        finally:
            self.running -= 1
            await self._tell()

    async def _step(self, job):
        self.steps.append(job.job_id)
        await self._tell()
        if self.failure is not None:
            raise self.failure
        if self._permits is not None:
            await self._permits.acquire()

    async def close(self):
        if self.running:
            raise DataPlaneError(StatusCode.INTERNAL, f"{self.running} jobs are left")


def _rows(spec, state, start, end):
    part = type(spec)(
        *(spec.layer, spec.kind, spec.dtype, spec.layout, (end - start, *spec.shape[1:])),
        *(start, end, spec.head_start, spec.head_end),
    )
    return Piece(part, np.ascontiguousarray(state[spec.key][start:end]))
