"""What a connection sends, turn by turn: whole frames, no more than its peer takes."""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from prefill_data.errors import DataPlaneError
from prefill_data.transport import sender as sending
from prefill_data.transport.sender import WRITE_BYTES, Sender
from prefill_data.transport.store import ChunkStore
from prefill_wire.channel import Pull, ServerChannel
from prefill_wire.framing import FrameDecoder, FrameType
from prefill_wire.producer import leaf_table_header
from prefill_wire.status import StatusCode
from prometheus_client import Counter

T = FrameType


class Taking(asyncio.WriteTransport):
    """A peer's side: it takes everything, or is full after every write."""

    def __init__(self, sender=None):
        super().__init__()
        self.data, self.sender, self.full = bytearray(), sender, False

    def write(self, data):
        self.data += data
        if self.full:
            self.sender.pause()

    def frames(self):
        """The types of all frames that were sent."""
        return [frame.type for frame in FrameDecoder(frozenset(T)).feed(self.data)]


@dataclass
class Scene:
    """A sender whose turns are taken one by one."""

    store: ChunkStore
    peer: Taking = field(default_factory=Taking)

    def __post_init__(self):
        attempt = SimpleNamespace(store=self.store, done_tokens=1, token_count=2)
        channel, counter = ServerChannel(b"n" * 32), Counter("sent", "", registry=None)
        self.sender = self.peer.sender = Sender(channel, attempt, self.peer, counter)
        self.store.watch(self.sender.store_changed)
        self.task = asyncio.create_task(self.sender.run())

    def add(self, size=100):
        self.store.add(leaf_table_header(len(self.store), size), b"x" * size)
        self.store.announce()

    async def turns(self):
        """Everything that can happen without time has happened."""
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
async def scene(tmp_path, monkeypatch):
    monkeypatch.setattr(sending, "PROGRESS_SECONDS", 3600.0)
    scene = Scene(ChunkStore(1 << 30, tmp_path))
    yield scene
    scene.task.cancel()
    await asyncio.gather(scene.task, return_exceptions=True)


async def test_signs_of_life_come_with_the_store_and_not_with_every_pull(scene):
    for first in range(5):
        scene.sender.pull(Pull(first, 1))
        await scene.turns()
    assert scene.peer.frames() == []
    scene.add()
    await scene.turns()
    assert scene.peer.frames() == [T.PROGRESS, T.CHUNK]
    scene.store.finish()
    await scene.turns()
    assert scene.peer.frames() == [T.PROGRESS, T.CHUNK, T.PROGRESS, *[T.END] * 4]


async def test_time_alone_brings_a_sign_of_life(scene, monkeypatch):
    monkeypatch.setattr(sending, "PROGRESS_SECONDS", 0.0)
    scene.sender.pull(Pull(0, 1))
    await scene.turns()
    assert set(scene.peer.frames()) == {T.PROGRESS}


async def test_a_chunk_that_comes_while_the_peer_takes_nothing_is_not_overlooked(scene):
    scene.peer.full = True
    scene.add()
    scene.sender.pull(Pull(0, 2))
    await scene.turns()
    assert scene.peer.frames() == [T.CHUNK]
    scene.add()  # the sender waits for its peer, and then for this
    await scene.turns()
    assert scene.peer.frames() == [T.CHUNK]
    scene.sender.resume()
    await scene.turns()
    assert scene.peer.frames().count(T.CHUNK) == 2


async def test_of_a_large_chunk_no_more_is_written_than_the_peer_takes(scene):
    scene.add(4 * WRITE_BYTES)
    scene.peer.full = True
    scene.sender.pull(Pull(0, 1))
    for writes in range(5):  # its head, and four slices
        await scene.turns()
        assert writes * WRITE_BYTES < len(scene.peer.data) <= writes * WRITE_BYTES + 200
        scene.sender.resume()
    assert scene.peer.frames() == [T.CHUNK]


async def test_a_death_is_told_between_two_frames(scene):
    scene.add(4 * WRITE_BYTES)
    scene.peer.full = True
    scene.sender.pull(Pull(0, 2))
    await scene.turns()
    scene.store.fail(DataPlaneError(StatusCode.CANCELLED, "over"))
    await scene.turns()
    assert not scene.task.done()  # in the middle of a frame
    scene.peer.full = False
    scene.sender.resume()
    await scene.turns()
    with pytest.raises(DataPlaneError, match="over"):
        scene.task.result()
    assert scene.peer.frames() == [T.CHUNK]


async def test_a_death_wakes_who_pulls_nothing(scene):
    await scene.turns()
    scene.store.fail(DataPlaneError(StatusCode.CANCELLED, "over"))
    await scene.turns()
    with pytest.raises(DataPlaneError, match="over"):
        scene.task.result()
