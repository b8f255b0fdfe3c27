"""Where a sealer works: a short job where it comes, a long one and the disk's in a thread."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from prefill_data.failpoints import Failpoints
from prefill_data.transport.store import ChunkStore
from prefill_data.worker.sealer import Bench, Sealer
from prefill_engine.engine import Piece
from prefill_wire.codecs import Codec
from prefill_wire.producer import ProducerKeys, StateProducer
from prefill_wire.sealing import AttemptContext, AttemptKeys, open_chunk
from prefill_wire.signing import SigningKey
from prefill_wire.tensors import Dtype, Layout, TensorKind, TensorSpec

KIB = 1 << 10
CONTEXT = AttemptContext("req_1", 1, "acme", b"d" * 32)
KEYS = ProducerKeys(
    AttemptKeys.derive(b"s" * 32, CONTEXT), b"c" * 32, SigningKey.from_seed(b"w" * 32)
)


class Threads(ThreadPoolExecutor):
    """One thread that counts what it is given."""

    jobs = 0

    def submit(self, *args, **kwargs):
        self.jobs += 1
        return super().submit(*args, **kwargs)


@pytest.fixture
def threads():
    with Threads(1) as threads:
        yield threads


def sealer_on(store, threads):
    bench = Bench(threads, time.monotonic, Failpoints({}))
    sealer = Sealer(StateProducer(CONTEXT, KEYS), store, {TensorKind.KV: Codec.RAW}, bench)
    sealer.state_tokens = 1 << 20
    return sealer


def piece(first, tokens):
    """So many rows of 1 KiB."""
    rows = np.full((tokens, 256), first, np.float32)
    spec = TensorSpec(
        0, TensorKind.KV, Dtype.FLOAT32, Layout.TOKEN_MAJOR, rows.shape, first, first + tokens, 0, 1
    )
    return Piece(spec, rows)


async def opened(store, index):
    header, ciphertext = await store.read(index)
    return header.token_start, len(open_chunk(KEYS.attempt.stream, CONTEXT, header, ciphertext))


@pytest.mark.parametrize(
    ("sizes", "ways"),
    [
        ([8], 0),
        ([8] * 5, 0),
        ([170], 0),
        ([180], 1),  # long by its bytes
        ([1] * 12, 1),  # and by its chunks
        ([300, 8], 1),  # a long job, then a short one
    ],
)
async def test_a_short_job_takes_no_way_to_a_thread(tmp_path, threads, sizes, ways):
    store = ChunkStore(1 << 20, tmp_path)
    firsts = [sum(sizes[:n]) for n in range(len(sizes))]
    await sealer_on(store, threads).put(*map(piece, firsts, sizes))
    assert threads.jobs == ways
    wanted = [(first, size * KIB) for first, size in zip(firsts, sizes, strict=True)]
    assert [await opened(store, index) for index in range(len(sizes))] == wanted


async def test_what_may_go_to_disk_goes_through_a_thread(tmp_path, threads):
    """A slow disk holds up one attempt, not the event loop."""
    store, first = ChunkStore(512 * KIB, tmp_path), 0
    sealer = sealer_on(store, threads)
    while not threads.jobs:
        assert store.free_bytes > 2 * 64 * KIB
        await sealer.put(piece(first, 64))
        first += 64
    assert store.free_bytes > 64 * KIB  # nothing is on disk yet, for jobs are not measured so well
    for _ in range(8):
        await sealer.put(piece(first, 64))
        first += 64
    assert threads.jobs == 9
    assert store.free_bytes < 64 * KIB
    assert [await opened(store, n) for n in range(first // 64)] == [
        (n * 64, 64 * KIB) for n in range(first // 64)
    ]
    store.close()
