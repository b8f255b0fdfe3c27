"""Receipts with their sealed manifests, appended durably before any manifest is released.

Record: u32 body length | 32 bytes BLAKE3 of the body | body. A torn last record is cut off
at start: it was never acknowledged, so its manifest was never released.
"""

import fcntl
import os
import struct
from pathlib import Path

from blake3 import blake3
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError

MAX_RECORD_BYTES = 1024 * 1024
SPOOL_FILE = "receipts.spool"
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 32
RECORD_OVERHEAD_BYTES = _LENGTH.size + _DIGEST_BYTES


class SpoolLost(DataPlaneError):
    """Whether the last record is on disk is unknown: the process has to end and read it again."""

    def __init__(self, path: Path, why: str | None) -> None:
        super().__init__(
            StatusCode.STORAGE_EXHAUSTED,
            f"the disk of {path.name} failed: {why}",
            "claim again once the gateway is back; operators: check the disk",
        )


class Spool:
    """One append-only file, owned by one gateway process; `append` may run in any one thread."""

    def __init__(self, path: Path) -> None:
        """Reads and heals the file; refuses one that another process holds or that is damaged."""
        self._path = path
        self._lost: SpoolLost | None = None
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataPlaneError(
                StatusCode.STORAGE_EXHAUSTED,
                f"{path} cannot be opened: {error.strerror}",
                "let PREFILL_SPOOL_DIR be a folder that the gateway may write",
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise DataPlaneError(
                StatusCode.INTERNAL,
                f"{path} is held by another gateway",
                "give each gateway a PREFILL_SPOOL_DIR of its own",
            ) from None
        self.found, self._end_bytes = read_records(path.read_bytes(), path.name)
        os.ftruncate(self._file, self._end_bytes)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @property
    def durable_bytes(self) -> int:
        """Up to where everything is on disk; what lies beyond may never have been."""
        return self._end_bytes

    def append(self, body: bytes) -> None:
        """Returns once `body` is on disk; raises STORAGE_EXHAUSTED and leaves no part of it.

        After a failed fsync nobody knows what is on disk: `SpoolLost`, and no append after it.
        """
        if self._lost is not None:
            raise self._lost
        if len(body) > MAX_RECORD_BYTES:
            raise DataPlaneError(
                StatusCode.STORAGE_EXHAUSTED,
                f"a spool record of {len(body)} bytes is over {MAX_RECORD_BYTES}",
            )
        record = _LENGTH.pack(len(body)) + blake3(body).digest() + body
        try:
            _write_all(self._file, record, self._end_bytes)
        except OSError as error:
            self._cut()
            raise DataPlaneError(
                StatusCode.STORAGE_EXHAUSTED,
                f"the receipt spool cannot be written: {error.strerror}",
                "free space in PREFILL_SPOOL_DIR and claim again",
            ) from error
        try:
            os.fsync(self._file)
        except OSError as error:
            self._lost = SpoolLost(self._path, error.strerror)
            raise self._lost from error
        self._end_bytes += len(record)

    def _cut(self) -> None:
        """Take back what was written of a record that did not fit."""
        try:
            os.ftruncate(self._file, self._end_bytes)
        except OSError as error:
            self._lost = SpoolLost(self._path, error.strerror)
            raise self._lost from error

    def close(self) -> None:
        """Closes the file; every appended record is already durable."""
        os.close(self._file)


def read_receipts(folder: Path) -> list[bytes]:
    """The whole records of a spool folder, without owning it: a torn tail is left out."""
    path = folder / SPOOL_FILE
    return read_records(path.read_bytes(), path.name)[0] if path.exists() else []


def _write_all(file: int, record: bytes, at_bytes: int) -> None:
    written = 0
    while written < len(record):
        written += os.pwrite(file, record[written:], at_bytes + written)


def read_records(data: bytes, name: str) -> tuple[list[bytes], int]:
    """The whole records from the start of `data`, and where they end; INTERNAL for damage that no
    crash explains."""
    records: list[bytes] = []
    at = 0
    while at + _LENGTH.size + _DIGEST_BYTES <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        start = at + _LENGTH.size + _DIGEST_BYTES
        end = start + length
        if length > MAX_RECORD_BYTES or end > len(data):
            break
        if blake3(data[start:end]).digest() != data[at + _LENGTH.size : start]:
            if end < len(data):
                raise DataPlaneError(
                    StatusCode.INTERNAL,
                    f"{name} is damaged at byte {at}, before its last record",
                    "restore the spool from a copy; receipts after this byte are unread",
                )
            break
        records.append(data[start:end])
        at = end
    return records, at
