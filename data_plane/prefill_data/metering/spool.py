"""Receipts with their sealed manifests, appended durably before any manifest is released.

Record: u32 body length | 32 bytes BLAKE3 of the body | body. A torn last record is cut off
at start: it was never acknowledged, so its manifest was never released. At most one record can be
torn, so a whole record beyond the tear means damage, and the file is refused.
"""

import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError

MAX_RECORD_BYTES = 1024 * 1024
SPOOL_FILE = "receipts.spool"
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 32
RECORD_OVERHEAD_BYTES = _LENGTH.size + _DIGEST_BYTES
WINDOW_BYTES = 2 * MAX_RECORD_BYTES  # read at once: the longest record fits


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

    def __init__(self, path: Path, recall: Callable[[bytes], object] = len) -> None:
        """Reads and heals the file; refuses one that another process holds or that is damaged.

        `recall` is given every record that is there, the oldest first; none is kept here.
        """
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
        try:
            self._end_bytes = _read_whole(self._file, path.name, recall)
            os.ftruncate(self._file, self._end_bytes)
            sync_folder(path.parent)
        except BaseException:
            os.close(self._file)
            raise

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


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _read_whole(file: int, name: str, recall: Callable[[bytes], object]) -> int:
    """Where the whole records end; INTERNAL when what follows is no torn tail."""
    at_bytes = 0
    data = os.pread(file, WINDOW_BYTES, 0)
    while (found := read_records(data, name))[0]:
        for body in found[0]:
            recall(body)
        at_bytes += found[1]
        data = os.pread(file, WINDOW_BYTES, at_bytes)
    longer = len(data) > RECORD_OVERHEAD_BYTES + MAX_RECORD_BYTES
    if longer or any(_record_at(data, at) for at in range(1, len(data))):
        raise _damaged(name, at_bytes)
    return at_bytes


def _record_at(data: bytes, at: int) -> bytes | None:
    """The body of the whole record that begins there; None when none does."""
    start = at + RECORD_OVERHEAD_BYTES
    if start > len(data):
        return None
    (length,) = _LENGTH.unpack_from(data, at)
    if not 0 < length <= MAX_RECORD_BYTES or start + length > len(data):
        return None
    body = data[start : start + length]
    return body if blake3(body).digest() == data[at + _LENGTH.size : start] else None


def _damaged(name: str, at_bytes: int) -> DataPlaneError:
    return DataPlaneError(
        StatusCode.INTERNAL,
        f"{name} is damaged at byte {at_bytes}, before its last record",
        "restore the spool from a copy; receipts after this byte are unread",
    )


def read_records(data: bytes, name: str) -> tuple[list[bytes], int]:
    """The whole records from the start of `data`, and where they end; INTERNAL for damage that no
    crash explains."""
    records: list[bytes] = []
    at = 0
    while (body := _record_at(data, at)) is not None:
        records.append(body)
        at += RECORD_OVERHEAD_BYTES + len(body)
    if _is_followed(data, at):
        raise _damaged(name, at)
    return records, at


def _is_followed(data: bytes, at: int) -> bool:
    """Whether a record that is not whole says of itself that something follows it."""
    if at + RECORD_OVERHEAD_BYTES > len(data):
        return False
    length = int(_LENGTH.unpack_from(data, at)[0])
    return 0 < length <= MAX_RECORD_BYTES and at + RECORD_OVERHEAD_BYTES + length < len(data)
