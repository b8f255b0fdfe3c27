"""A slow, silent or stuck reader costs the worker no more than its bound, and nobody else."""

import asyncio
import errno
import os
import socket
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from hand_client import HandClient, refused
from in_process_cloud import Cloud, spill_files
from prefill_data.errors import DataPlaneError
from prefill_data.transport import connection as data_connection
from prefill_data.transport.sender import WRITE_BYTES
from prefill_data.transport.store import ChunkStore
from prefill_wire.channel import ClientChannel, Ready
from prefill_wire.status import StatusCode
from prefill_wire.tensors import Dtype, LayerState, Layout, StateSchema, TensorKind
from stand_in_backend import VOCABULARY, StandInBackend

S = StatusCode
KIB, MIB = 1 << 10, 1 << 20
WIDE = StateSchema(
    (LayerState(0, TensorKind.LATENT_KV, Dtype.BFLOAT16, Layout.TOKEN_MAJOR, (8192,), 1),)
)
TOKENS = np.arange(1025, dtype=np.uint32) % VOCABULARY  # 16 MiB in chunks of 1 MiB
BOUND = 3 * MIB


@pytest.fixture
async def wide(tmp_path, tidy):
    """A cloud whose states do not fit into a stream's memory."""
    cloud = Cloud(tmp_path, StandInBackend(WIDE, step_tokens=64))
    cloud.worker_settings = replace(cloud.worker_settings, stream_memory_bytes=BOUND)
    async with cloud:
        yield cloud


async def slow_wire(hand):
    """An authenticated connection with the smallest receive buffer, and its server's transport."""
    host, port = hand.accept.data_endpoint.split(":")
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * KIB)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, (host, int(port)))
    return raw


async def begin(hand, raw):
    """Authenticate on a raw socket and pull everything; nothing is read after that."""
    loop = asyncio.get_running_loop()
    channel = ClientChannel(hand.accept.capability, hand.keys.connection)
    events = []
    while not events:
        events = channel.receive(await loop.sock_recv(raw, 64))
        await loop.sock_sendall(raw, channel.data_to_send())
    assert isinstance(events[0], Ready)
    channel.pull(0, 1000)
    await loop.sock_sendall(raw, channel.data_to_send())
    return channel


@pytest.fixture
def served(monkeypatch):
    """The server's connections with their transports, to look into their buffers."""
    found, begin = [], data_connection.Connection.connection_made

    def watched(self, transport):
        found.append((self, transport))
        begin(self, transport)

    monkeypatch.setattr(data_connection.Connection, "connection_made", watched)
    return found


async def test_a_reader_of_a_kibibyte_at_a_time_costs_its_bound_and_nobody_else(wide, served):
    loop = asyncio.get_running_loop()
    slow = HandClient(wide, tokens=TOKENS)
    await slow.open()
    await slow.prompt()
    raw = await slow_wire(slow)
    await begin(slow, raw)
    store = wide.attempts.find(slow.accept.request_id, 1).store
    quick = HandClient(wide, "bolt", tokens=TOKENS)
    others = asyncio.create_task(quick.through())
    buffer = served[0][1].get_write_buffer_size
    for _ in range(100):
        assert await loop.sock_recv(raw, KIB)
        assert store.memory_bytes <= BOUND
        assert buffer() <= 2 * WRITE_BYTES
    assert len(await others) == 17  # the others proceed: the twin
    assert 0 < store.memory_bytes <= BOUND
    assert 0 < buffer() <= 2 * WRITE_BYTES
    assert len(store) == 17  # nor does it hold its own prefill up
    assert spill_files(wide) == []
    raw.close()


@pytest.mark.parametrize("end", ["cancel", "lease"])
async def test_a_reader_that_is_stuck_is_dropped_with_its_attempt(wide, served, monkeypatch, end):
    monkeypatch.setattr(data_connection, "LINGER_SECONDS", 0.05)
    hand = HandClient(wide, tokens=TOKENS)
    await hand.open()
    await hand.prompt()
    raw = await slow_wire(hand)
    await begin(hand, raw)
    await wide.backend.until(lambda b: b.running == 0)
    attempt = wide.attempts.find(hand.accept.request_id, 1)
    assert attempt.connections == 1
    if end == "cancel":
        await hand.cancel()
    else:
        wide.clock.advance(10_000)
        wide.sweep()
    await wide.parts.opener.settle()
    await served[0][0].gone.wait()
    assert attempt.store.memory_bytes == 0
    raw.close()


async def test_a_full_spill_disk_is_typed_and_leaves_nothing(wide, monkeypatch, log_lines):
    whole, written = os.pwrite, 0

    def full(file, data, at):
        nonlocal written
        written += len(data)
        if written > 2 * MIB:
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(file, data, at)

    monkeypatch.setattr("prefill_data.transport.store.os.pwrite", full)
    await dies_of_a_full_disk(wide)
    monkeypatch.undo()
    twin = HandClient(wide, key="twin", tokens=TOKENS)
    assert len(await twin.through()) == 17


async def dies_of_a_full_disk(cloud):
    hand = HandClient(cloud, tokens=TOKENS)
    await hand.open()
    await hand.prompt()
    await cloud.backend.until(lambda b: b.submits and b.running == 0)
    accept = hand.accept
    attempt = cloud.parts.book.find("acme", accept.request_id, accept.attempt)
    with pytest.raises(DataPlaneError) as died:
        await attempt.finished
    assert died.value.code is S.STORAGE_EXHAUSTED
    async with refused(S.STORAGE_EXHAUSTED):
        await hand.prompt()
    await cloud.parts.opener.settle()
    assert len(cloud.attempts) == cloud.attempts.reserved_bytes == 0
    assert spill_files(cloud) == []
    assert cloud.receipts == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a tmpfs of 2 MiB is mounted")
async def test_a_small_disk_is_really_full(tmp_path, tidy):
    small = tmp_path / "spill"
    small.mkdir()
    mounted = await asyncio.to_thread(
        subprocess.run,
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"this machine lets no tmpfs be mounted: {mounted.stderr.decode()[:80]}")
    try:
        cloud = Cloud(tmp_path, StandInBackend(WIDE, step_tokens=64))
        cloud.worker_settings = replace(cloud.worker_settings, stream_memory_bytes=BOUND)
        async with cloud:
            await dies_of_a_full_disk(cloud)
            stat = os.statvfs(small)
            assert stat.f_bfree == stat.f_blocks
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", "-l", small], check=True)


def test_a_close_while_a_chunk_is_spilled_touches_no_other_file(tmp_path, monkeypatch):
    """The descriptor's number may be another file's the moment it is closed."""
    store, whole, sent = ChunkStore(0, tmp_path), os.pwrite, []

    def closing(file, data, at):
        if not sent:
            store.fail(DataPlaneError(S.CANCELLED, "freed meanwhile"))
            sent.append(os.fstat(file).st_nlink)  # still the nameless spill file
        return whole(file, data, at)

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "pwrite", closing)
    with pytest.raises(DataPlaneError, match="freed"):
        store.add(None, b"x" * 100)
    assert sent == [0]
    assert len(store) == store.memory_bytes == 0
    assert len(os.listdir("/proc/self/fd")) == before
