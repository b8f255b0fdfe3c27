"""Reads a spool from where an earlier reading ended, beside the process that appends to it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from prefill_data.errors import DataPlaneError
from prefill_data.metering.spool import WINDOW_BYTES, read_records

MARK_FILE = "shipped"


@dataclass(frozen=True, slots=True)
class Stretch:
    """Records and the byte at which the next one begins."""

    records: tuple[bytes, ...]
    end_bytes: int


class _Mark(msgspec.Struct, frozen=True):
    end_bytes: int


def read_stretch(path: Path, start_bytes: int, durable_bytes: int) -> Stretch:
    """Some whole records from a record's start on, none beyond the durable end.

    A start that lies in no file of this spool is not believed: reading begins anew, for whoever
    receives a record twice counts it once.
    """
    if start_bytes > durable_bytes:
        start_bytes = 0
    with open(path, "rb") as file:
        file.seek(start_bytes)
        data = file.read(min(WINDOW_BYTES, durable_bytes - start_bytes))
    try:
        records, read_bytes = read_records(data, path.name)
    except DataPlaneError:
        if start_bytes == 0:
            raise
        records, read_bytes = [], 0
    if data and not records and start_bytes > 0:
        return read_stretch(path, 0, durable_bytes)
    return Stretch(tuple(records), start_bytes + read_bytes)


def load_mark(folder: Path) -> int:
    """Up to which byte everything was acknowledged; 0 when nobody knows."""
    try:
        return msgspec.json.decode((folder / MARK_FILE).read_bytes(), type=_Mark).end_bytes
    except (OSError, msgspec.DecodeError):
        return 0


def save_mark(folder: Path, end_bytes: int) -> None:
    """Old or new after a crash, and old costs only a repetition: no fsync."""
    fresh = folder / f"{MARK_FILE}.new"
    fresh.write_bytes(msgspec.json.encode(_Mark(end_bytes)))
    os.replace(fresh, folder / MARK_FILE)
