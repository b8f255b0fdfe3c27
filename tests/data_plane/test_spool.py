"""The receipt spool: durable, healed of a torn tail, never half written."""

import errno
import os
from pathlib import Path

import pytest
from prefill_data.errors import DataPlaneError
from prefill_data.metering.spool import Spool


def test_records_come_back_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s")
    spool.append(b"one")
    spool.append(b"two")
    spool.close()
    assert Spool(tmp_path / "s").found == [b"one", b"two"]


def test_a_tail_torn_at_any_byte_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "s"
    spool = Spool(path)
    spool.append(b"one")
    whole = path.stat().st_size
    spool.append(b"two")
    spool.close()
    data = path.read_bytes()
    for size in range(whole, len(data)):
        path.write_bytes(data[:size])
        healed = Spool(path)
        healed.close()
        assert healed.found == [b"one"]
        assert path.stat().st_size == whole


def test_damage_before_the_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    spool = Spool(path)
    spool.append(b"one")
    spool.append(b"two")
    spool.close()
    data = bytearray(path.read_bytes())
    data[37] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataPlaneError, match="damaged"):
        Spool(path)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "s")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataPlaneError) as refused:
        spool.append(b"one")
    assert refused.value.code == "STORAGE_EXHAUSTED"
    spool.close()
    assert Spool(tmp_path / "s").found == []
    assert (tmp_path / "s").stat().st_size == 0
