"""The ledger of chunks, and the memory that a download takes while its state is opened slowly."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback_cloud import IDENTITY, LoopbackCloud
from prefill_cloud.pulls import Pulls, runs
from prefill_wire.errors import IntegrityError
from prefill_wire.tensors import Dtype, LayerState, Layout, StateSchema, TensorKind

MIB = 1 << 20


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 9), st.randoms(use_true_random=False))
def test_every_chunk_is_pulled_whatever_breaks(chunks, connections, window, random):
    """Connections take, receive in order, break and come back, in any interleaving."""
    pulls, owed = Pulls(), [[] for _ in range(connections)]
    received = []
    for _ in range(10_000):
        if pulls.complete:
            break
        mine = random.choice(owed)
        if random.random() < 0.1:
            pulls.give_back(mine)
            mine.clear()
        mine += pulls.take(window - len(mine))
        if not mine:
            continue
        index = mine.pop(0)
        if index >= chunks:
            pulls.end(chunks)
            mine[:] = [each for each in mine if each < chunks]
        else:
            received.append(index)
            pulls.hold(index)
    assert pulls.complete
    assert sorted(received) == list(range(chunks))  # each of them once


def test_what_came_back_is_handed_out_first():
    pulls = Pulls()
    assert pulls.take(4) == [0, 1, 2, 3]
    pulls.hold(0)
    pulls.give_back([3, 1])
    assert pulls.take(4) == [1, 3, 4, 5]


@pytest.mark.parametrize("counts", [[0], [3], [5, 6]])
def test_an_end_that_cannot_be_is_refused(counts):
    pulls = Pulls()
    for index in pulls.take(5)[2:4]:
        pulls.hold(index)
    for count in counts[:-1]:
        pulls.end(count)
    with pytest.raises(IntegrityError):
        pulls.end(counts[-1])


@given(st.lists(st.integers(0, 50)))
def test_runs_are_the_indices_again(indices):
    joined = runs(indices)
    assert [index for first, n in joined for index in range(first, first + n)] == indices


SCHEMA = StateSchema(
    (LayerState(0, TensorKind.LATENT_KV, Dtype.BFLOAT16, Layout.TOKEN_MAJOR, (MIB // 2,), 1),)
)


class SlowThreads(ThreadPoolExecutor):
    """Opening a chunk takes 10 ms here; remembers how far the worker was ahead of it."""

    def __init__(self, cloud):
        super().__init__(1)
        self._cloud, self._opened, self.most_ahead = cloud, 0, 0

    def submit(self, function, *arguments):
        def slowly():
            time.sleep(0.01)
            self.most_ahead = max(self.most_ahead, self._cloud.sent.total() - self._opened)
            self._opened += 1
            return function(*arguments)

        return super().submit(slowly)


@pytest.mark.parametrize(("read_bytes", "bounded"), [(MIB, True), (256 * MIB, False)])
async def test_a_slow_opener_holds_the_worker_back(connect, quick, read_bytes, bounded):
    """64 chunks of 1 MiB, all asked for at once: what is not yet opened lies in bounded buffers."""
    state = {(0, TensorKind.LATENT_KV): np.ones((64, MIB // 2), np.uint16)}
    async with LoopbackCloud(lambda _: state, SCHEMA) as cloud:
        cloud.rows_a_chunk, cloud.codecs = 1, ("raw",)
        tuning = replace(quick, read_bytes=read_bytes, stall_seconds=5.0, window_chunks=100)
        async with connect(cloud, connections=1, tuning=tuning) as client:
            client._threads = threads = SlowThreads(cloud)
            await client.prefill(range(65), IDENTITY, SCHEMA, deadline_seconds=60.0)
    # twice read_bytes, a frame, a chunk being opened, and the kernel's own buffers of both ends
    assert (threads.most_ahead <= 24) is bounded
