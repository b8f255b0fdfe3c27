"""The chunk store: bounded memory, a nameless spill file, typed refusal of a full disk."""

import asyncio
import errno
import os
import threading
from pathlib import Path
from typing import cast

import pytest
from prefill_data.errors import DataPlaneError
from prefill_data.transport.store import ChunkStore
from prefill_wire.chunks import ChunkHeader

HEADER = cast(ChunkHeader, object())


async def test_memory_stays_under_the_bound_and_every_chunk_is_readable(tmp_path: Path) -> None:
    store = ChunkStore(100, tmp_path)
    chunks = [bytes([index]) * 30 for index in range(10)]
    for chunk in chunks:
        store.add(HEADER, chunk)
        assert store.memory_bytes <= 100
    assert [(await store.read(index))[1] for index in range(10)] == chunks
    assert os.listdir(tmp_path) == []
    store.close()


def test_a_full_spill_disk_is_a_typed_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ChunkStore(0, tmp_path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataPlaneError, match="No space"):
        store.add(HEADER, b"x")
    assert len(store) == 0
    store.close()


async def test_a_disk_that_is_slow_holds_up_no_loop_and_what_lies_in_memory_waits_for_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, whole, go = ChunkStore(10, tmp_path), os.pread, threading.Event()
    store.add(HEADER, b"in memory!")
    store.add(HEADER, b"spilled")

    def slow(file: int, count: int, at: int) -> bytes:
        assert go.wait(10), "the loop never came to let it go on"
        return whole(file, count, at)

    monkeypatch.setattr(os, "pread", slow)
    reading = asyncio.create_task(store.read(1))
    assert (await store.read(0))[1] == b"in memory!"
    assert not reading.done()
    go.set()
    assert (await reading)[1] == b"spilled"
    store.close()


async def test_a_close_while_a_chunk_is_read_touches_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, whole = ChunkStore(0, tmp_path), os.pread
    before = len(os.listdir("/proc/self/fd"))
    store.add(HEADER, b"x" * 100)
    links = []

    def closing(file: int, count: int, at: int) -> bytes:
        store.close()
        links.append(os.fstat(file).st_nlink)  # still the nameless spill file
        return whole(file, count, at)

    monkeypatch.setattr(os, "pread", closing)
    assert (await store.read(0))[1] == b"x" * 100
    assert links == [0]
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("short", [True, False])
async def test_a_spilled_chunk_that_cannot_be_read_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: bool
) -> None:
    store = ChunkStore(0, tmp_path)
    store.add(HEADER, b"x" * 100)

    def broken(*_: object) -> bytes:
        if short:
            return b"x"
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", broken)
        with pytest.raises(DataPlaneError, match="cannot be read") as caught:
            await store.read(0)
    assert caught.value.code == "STORAGE_EXHAUSTED"
    assert (await store.read(0))[1] == b"x" * 100
    store.close()
