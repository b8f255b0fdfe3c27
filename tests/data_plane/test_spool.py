"""The receipt spool: durable, healed of a torn tail, never half written."""

import errno
import os
from pathlib import Path

import pytest
from prefill_data.errors import DataPlaneError
from prefill_data.metering.frames import MAX_RECORD_BYTES, RECORD_OVERHEAD_BYTES, WINDOW_BYTES
from prefill_data.metering.segments import SPOOL_FILE
from prefill_data.metering.spool import Place, Spool


def found(path: Path) -> list[bytes]:
    """What a spool that is opened here recalls."""
    records: list[bytes] = []

    def recall(place: Place, body: bytes) -> int:
        records.append(body)
        return 0

    Spool(path.parent, recall).close()
    return records


def test_records_come_back_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append_all([b"one"], 0)
    spool.append_all([b"two"], 0)
    spool.close()
    assert found(tmp_path / SPOOL_FILE) == [b"one", b"two"]


def test_a_tail_torn_at_any_byte_is_cut(tmp_path: Path) -> None:
    path = tmp_path / SPOOL_FILE
    spool = Spool(path.parent)
    spool.append_all([b"one"], 0)
    whole = path.stat().st_size
    spool.append_all([b"two"], 0)
    spool.close()
    data = path.read_bytes()
    for size in range(whole, len(data)):
        path.write_bytes(data[:size])
        assert found(path) == [b"one"]
        assert path.stat().st_size == whole


def test_damage_before_the_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / SPOOL_FILE
    spool = Spool(path.parent)
    spool.append_all([b"one"], 0)
    spool.append_all([b"two"], 0)
    spool.close()
    data = bytearray(path.read_bytes())
    data[37] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataPlaneError, match="damaged"):
        Spool(path.parent)


@pytest.mark.parametrize("bad", [b"\xff\xff\xff\x7f", b"\x00\x01\x00\x00", bytes(4)])
def test_a_damaged_length_is_no_torn_tail(tmp_path: Path, bad: bytes) -> None:
    """Else everything behind it, billed and not yet shipped, would be cut off."""
    path = tmp_path / SPOOL_FILE
    spool = Spool(path.parent)
    for body in (b"one", b"two", b"three"):
        spool.append_all([body], 0)
    spool.close()
    whole = path.read_bytes()
    second = 36 + 3
    path.write_bytes(whole[:second] + bad + whole[second + 4 :])
    with pytest.raises(DataPlaneError, match=f"damaged at byte {second}"):
        Spool(path.parent)
    assert path.stat().st_size == len(whole)
    path.write_bytes(whole)
    assert found(path) == [b"one", b"two", b"three"]


@pytest.mark.parametrize("size", [1, 36, 5000])
def test_a_tail_of_zeros_is_cut(tmp_path: Path, size: int) -> None:
    """What a file system leaves that made the file longer and lost power before the content."""
    path = tmp_path / SPOOL_FILE
    spool = Spool(path.parent)
    spool.append_all([b"one"], 0)
    spool.close()
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(size))
    assert found(path) == [b"one"]
    assert path.read_bytes() == whole


def test_more_than_one_record_beyond_the_end_is_no_torn_tail(tmp_path: Path) -> None:
    path = tmp_path / SPOOL_FILE
    path.write_bytes(bytes(RECORD_OVERHEAD_BYTES + MAX_RECORD_BYTES + 1))
    with pytest.raises(DataPlaneError, match="damaged at byte 0"):
        Spool(path.parent)
    path.write_bytes(bytes(4096))
    assert found(path) == []


def test_a_spool_larger_than_a_window_is_read_whole(tmp_path: Path) -> None:
    path, bodies = tmp_path / SPOOL_FILE, [bytes([n]) * 700_000 for n in range(7)]
    spool = Spool(path.parent)
    for body in bodies:
        spool.append_all([body], 0)
    spool.close()
    assert path.stat().st_size > 2 * WINDOW_BYTES
    assert found(path) == bodies


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataPlaneError) as refused:
        spool.append_all([b"one"], 0)
    assert refused.value.code == "STORAGE_EXHAUSTED"
    spool.close()
    assert found(tmp_path / SPOOL_FILE) == []
    assert (tmp_path / SPOOL_FILE).stat().st_size == 0
