"""StepBackend: one thread for its engines, a sequence freed whenever its job ends, fair turns."""

import asyncio
import threading

import numpy as np
import pytest
from prefill_data.errors import DataPlaneError
from prefill_data.worker.backend import PrefillJob
from prefill_data.worker.step_backend import StepBackend
from prefill_wire.status import StatusCode
from stand_in_backend import IDENTITY, MAX_TOKENS, SCHEMA, VOCABULARY

STEP_TOKENS = 4


class Engine:
    """A StepEngine without a model: every step waits for its gate, and says who made it."""

    identity, schema, max_tokens, vocab_size = IDENTITY, SCHEMA, MAX_TOKENS, VOCABULARY
    step_tokens = STEP_TOKENS

    def __init__(self):
        self.open_now, self.steps, self.threads = {}, [], set()
        self.gate, self.failure = threading.Semaphore(1000), None
        self.began = threading.Semaphore(0)

    def _here(self):
        self.threads.add(threading.get_ident())

    def open(self, tokens):
        self._here()
        handle = object()
        self.open_now[handle] = [len(tokens), 0]
        return handle

    def step(self, work):
        self._here()
        self.began.release()
        self.gate.acquire()
        if self.failure is not None:
            raise self.failure
        [(handle, count)] = work
        self.open_now[handle][1] += count
        self.steps.append(count)
        return [f"rows to {self.open_now[handle][1]}"]

    def position(self, handle):
        return self.open_now[handle][1]

    def snapshot(self, handle):
        return [f"state at {self.open_now[handle][1]}"]

    def close(self, handle):
        self._here()
        del self.open_now[handle]


class Sink:
    """Keeps what comes; with `hold` a delivery waits."""

    def __init__(self):
        self.came, self.done_tokens, self.under_way = [], [], 0
        self.hold, self.moved = asyncio.Event(), asyncio.Event()
        self.hold.set()

    async def until(self, holds):
        while not holds():
            self.moved.clear()
            await self.moved.wait()

    async def put(self, *pieces):
        self.under_way += 1
        self.moved.set()
        assert self.under_way == 1  # one at a time
        await self.hold.wait()
        self.under_way -= 1
        self.came += pieces

    def progress(self, done_tokens):
        self.done_tokens.append(done_tokens)
        self.moved.set()


@pytest.fixture
async def backend():
    engine = Engine()
    backend = StepBackend({"tiny": engine}, iter(range(1_000_000)).__next__)
    backend.engine = engine
    yield backend
    engine.gate.release(1000)
    await backend.close()
    assert len(engine.threads) <= 1


def job(state_tokens, name="j", tenant="acme"):
    return PrefillJob(name, tenant, "tiny", np.arange(state_tokens + 1, dtype=np.uint32))


async def settled(backend):
    """Returns when everything that was handed to the engine's thread has run."""
    await asyncio.wrap_future(backend._thread.submit(int))


async def test_the_pieces_come_in_order_and_the_snapshot_with_the_last(backend):
    sink = Sink()
    await backend.submit(job(10), sink)
    assert sink.came == ["rows to 4", "rows to 8", "rows to 10", "state at 10"]
    assert sink.done_tokens == [4, 8, 10]
    assert backend.engine.open_now == {}


async def test_a_short_prompt_goes_to_the_engines_thread_once(backend, monkeypatch):
    ways, submit = [], backend._thread.submit
    monkeypatch.setattr(backend._thread, "submit", lambda *a: ways.append(a) or submit(*a))
    await backend.submit(job(STEP_TOKENS), Sink())
    assert len(ways) == 1
    assert backend.engine.open_now == {}  # opened and closed on that way
    await backend.submit(job(2 * STEP_TOKENS), Sink())
    assert len(ways) == 3  # the twin: as often as it steps


@pytest.mark.parametrize("state_tokens", [STEP_TOKENS, 3 * STEP_TOKENS])
@pytest.mark.parametrize("steps_before", [0, 1])
async def test_a_job_that_is_cancelled_in_a_step_leaves_no_sequence(
    backend, state_tokens, steps_before
):
    engine = backend.engine
    engine.gate = threading.Semaphore(min(steps_before, state_tokens // STEP_TOKENS - 1))
    before = engine.gate._value
    task = asyncio.create_task(backend.submit(job(state_tokens), Sink()))
    for _ in range(before + 1):
        await asyncio.to_thread(engine.began.acquire)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(engine.open_now) == 1  # the twin: its step goes on in the thread
    engine.gate.release(1000)
    await settled(backend)
    assert engine.open_now == {}
    assert len(engine.steps) == before + 1


@pytest.mark.parametrize("state_tokens", [STEP_TOKENS, 3 * STEP_TOKENS])
async def test_a_job_that_is_cancelled_in_a_delivery_leaves_no_sequence(backend, state_tokens):
    sink = Sink()
    sink.hold.clear()
    task = asyncio.create_task(backend.submit(job(state_tokens), sink))
    await sink.until(lambda: sink.under_way)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settled(backend)
    assert backend.engine.open_now == {}
    assert sink.came == []


async def test_a_job_that_is_cancelled_before_its_turn_opens_nothing(backend):
    engine = backend.engine
    engine.gate = threading.Semaphore(0)
    first = asyncio.create_task(backend.submit(job(STEP_TOKENS, "first"), Sink()))
    await asyncio.to_thread(engine.began.acquire)
    second = asyncio.create_task(backend.submit(job(STEP_TOKENS, "second"), Sink()))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    engine.gate.release(1000)
    await first
    await settled(backend)
    assert engine.open_now == {}
    assert engine.steps == [STEP_TOKENS]


async def test_a_step_that_fails_frees_its_sequence_and_the_next_job_goes_on(backend):
    engine = backend.engine
    engine.failure = DataPlaneError(StatusCode.INTERNAL, "broken")
    with pytest.raises(DataPlaneError, match="broken"):
        await backend.submit(job(STEP_TOKENS), Sink())
    await settled(backend)
    assert engine.open_now == {}
    engine.failure = None
    await backend.submit(job(STEP_TOKENS), Sink())


async def test_a_delivery_that_fails_ends_its_job_and_frees_its_sequence(backend):
    class Full(Sink):
        async def put(self, *pieces):
            raise DataPlaneError(StatusCode.STORAGE_EXHAUSTED, "full")

    for state_tokens in (STEP_TOKENS, 5 * STEP_TOKENS):
        with pytest.raises(DataPlaneError, match="full"):
            await backend.submit(job(state_tokens), Full())
        await settled(backend)
        assert backend.engine.open_now == {}


async def test_one_step_overlaps_a_delivery_and_a_second_delivery_waits(backend):
    engine, sink = backend.engine, Sink()
    sink.hold.clear()
    task = asyncio.create_task(backend.submit(job(4 * STEP_TOKENS), sink))
    await sink.until(lambda: len(sink.done_tokens) == 2)
    assert len(engine.steps) == 2  # the second while the first was on its way, and no third
    assert sink.under_way == 1
    sink.hold.set()
    await task
    assert sink.done_tokens == [4, 8, 12, 16]


async def test_tenants_step_by_turns_whatever_the_number_of_their_jobs(backend):
    engine, order = backend.engine, []

    class Watched(Sink):
        def __init__(self, tenant):
            super().__init__()
            self.tenant = tenant

        def progress(self, done_tokens):
            order.append(self.tenant)

    engine.gate = threading.Semaphore(0)
    jobs = [("many", n) for n in range(4)] + [("one", 4)]
    tasks = [
        asyncio.create_task(backend.submit(job(6 * STEP_TOKENS, f"j{n}", tenant), Watched(tenant)))
        for tenant, n in jobs
    ]
    await asyncio.to_thread(engine.began.acquire)
    engine.gate.release(1000)
    await asyncio.gather(*tasks)
    while_both = order[: len(order) - order[::-1].index("one")]
    assert abs(while_both.count("many") - while_both.count("one")) <= 2
    assert (order.count("many"), order.count("one")) == (24, 6)  # the twin: nobody is left out
