"""The chunk store: bounded memory, a nameless spill file, typed refusal of a full disk."""

import errno
import os
from pathlib import Path
from typing import cast

import pytest
from prefill_data.errors import DataPlaneError
from prefill_data.transport.store import ChunkStore
from prefill_wire.chunks import ChunkHeader

HEADER = cast(ChunkHeader, object())


def test_memory_stays_under_the_bound_and_every_chunk_is_readable(tmp_path: Path) -> None:
    store = ChunkStore(100, tmp_path)
    chunks = [bytes([index]) * 30 for index in range(10)]
    for chunk in chunks:
        store.add(HEADER, chunk)
        assert store.memory_bytes <= 100
    assert [store.read(index)[1] for index in range(10)] == chunks
    assert list(tmp_path.iterdir()) == []
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
