"""The files of a spool folder: segments, named by where they begin, and what was set aside.

A place in the spool is counted from its very first byte, whatever was deleted since. The first
segment is `receipts.spool`, each later one has its beginning behind the name. Live segments follow
each other without a gap: they are made at the end and deleted at the beginning.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.metering.frames import WINDOW_BYTES, Frame, whole_frames

SPOOL_FILE = "receipts.spool"
ASIDE_FILE = "receipts.damaged"
LOCK_FILE = "receipts.lock"
SEGMENT_BYTES = 64 << 20


@dataclass(slots=True)
class Segment:
    """A file with the bytes from `base_bytes` to `end_bytes` of the spool; `until_ms` (Unix) is
    when the last lease of its records ends."""

    path: Path
    base_bytes: int
    end_bytes: int
    until_ms: int = 0


class SpoolDamaged(DataPlaneError):
    """Bytes of a spool file that no crash explains."""

    def __init__(self, path: Path, at_bytes: int, what: str) -> None:
        """`at_bytes`: from the beginning of the file."""
        super().__init__(
            StatusCode.INTERNAL,
            f"{path.name} is damaged at byte {at_bytes}: {what}",
            f"restore {path.name} from a copy; receipts after this byte are unread",
        )
        self.path, self.at_bytes = path, at_bytes


def segment_path(folder: Path, base_bytes: int) -> Path:
    """The file that begins there."""
    return folder / (SPOOL_FILE if base_bytes == 0 else f"{SPOOL_FILE}.{base_bytes:020d}")


def aside_path(folder: Path, at_bytes: int) -> Path:
    """Where damaged bytes are kept that began there in the spool."""
    return folder / f"{ASIDE_FILE}.{at_bytes:020d}"


def find_segments(folder: Path) -> list[Segment]:
    """Those that are there, the oldest first; how far the last one reaches is not looked at."""
    bases = sorted(_numbers(folder, SPOOL_FILE))
    ends = [*bases[1:], bases[-1]] if bases else []
    pairs = zip(bases, ends, strict=True)
    return [Segment(segment_path(folder, base), base, end) for base, end in pairs]


def find_asides(folder: Path) -> dict[int, int]:
    """Damaged stretches that were set aside: where they begin in the spool, and their bytes."""
    return {at: aside_path(folder, at).stat().st_size for at in _numbers(folder, ASIDE_FILE)}


def _numbers(folder: Path, stem: str) -> Iterator[int]:
    for name in os.listdir(folder):
        if name == stem == SPOOL_FILE:
            yield 0
        elif name.startswith(f"{stem}.") and name[len(stem) + 1 :].isdecimal():
            yield int(name[len(stem) + 1 :])


def walk(file: int, segment: Segment, asides: dict[int, int]) -> Iterator[tuple[int, Frame]]:
    """Whole frames with their places in the spool, over what was set aside, up to where none is."""
    at_bytes = 0
    while True:
        frames = whole_frames(os.pread(file, WINDOW_BYTES, at_bytes))
        for frame in frames:
            yield segment.base_bytes + at_bytes, frame
            at_bytes += frame.size_bytes
        if not frames:
            skipped = asides.get(segment.base_bytes + at_bytes, 0)
            if not skipped:
                return
            at_bytes += skipped


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def own_folder(folder: Path) -> int:
    """The lock of a folder; it ends with the process."""
    file = open_file(folder / LOCK_FILE)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise DataPlaneError(
            StatusCode.INTERNAL,
            f"{folder / SPOOL_FILE} is held by another gateway",
            "give each gateway a PREFILL_SPOOL_DIR of its own",
        ) from None
    return file


def open_file(path: Path) -> int:
    """Open or make a file; STORAGE_EXHAUSTED names one that cannot be."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DataPlaneError(
            StatusCode.STORAGE_EXHAUSTED,
            f"{path} cannot be opened: {error.strerror}",
            "let PREFILL_SPOOL_DIR be a folder that the gateway may write",
        ) from error


def bytes_at(path: Path, at_bytes: int, size_bytes: int) -> bytes:
    """Some bytes of a file; raises OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(file, size_bytes, at_bytes)
    finally:
        os.close(file)
