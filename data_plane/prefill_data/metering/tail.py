"""Reads a spool from where an earlier reading ended, beside the process that appends to it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from prefill_data.metering.frames import WINDOW_BYTES, Frame, next_frame, pack, whole_frames
from prefill_data.metering.segments import (
    Segment,
    SpoolDamaged,
    aside_path,
    bytes_at,
    find_asides,
    find_segments,
    sync_folder,
    walk,
)

MARK_FILE = "shipped"
REFUSED_FILE = "receipts.refused"


@dataclass(frozen=True, slots=True)
class Stretch:
    """Whole frames from `start_bytes` on."""

    start_bytes: int
    frames: tuple[Frame, ...]

    @property
    def end_bytes(self) -> int:
        """Where the next frame begins."""
        return self.start_bytes + sum(frame.size_bytes for frame in self.frames)


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of the spool that were whole when they were appended, and are no more."""

    path: Path
    at_bytes: int  # in the file
    start_bytes: int  # in the spool
    data: bytes

    @property
    def end_bytes(self) -> int:
        """Where the next whole frame begins."""
        return self.start_bytes + len(self.data)

    def error(self) -> SpoolDamaged:
        """What is told of it."""
        return SpoolDamaged(self.path, self.at_bytes, f"{len(self.data)} bytes hold no record")


class _Mark(msgspec.Struct, frozen=True):
    end_bytes: int


def read_stretch(folder: Path, start_bytes: int, durable_bytes: int) -> Stretch | Damage:
    """Some whole frames from a frame's start on, none beyond the durable end; or the damage that
    begins there. What was set aside before is passed over: then there may be no frame."""
    segment = _segment_of(folder, start_bytes, durable_bytes)
    start_bytes = max(start_bytes, segment.base_bytes)
    skipped = find_asides(folder).get(start_bytes, 0)
    if skipped:
        return Stretch(start_bytes + skipped, ())
    most = min(WINDOW_BYTES, segment.end_bytes - start_bytes)
    frames = whole_frames(bytes_at(segment.path, start_bytes - segment.base_bytes, most))
    if frames or start_bytes == segment.end_bytes:
        return Stretch(start_bytes, tuple(frames))
    return _damage(segment, start_bytes)


def _segment_of(folder: Path, at_bytes: int, durable_bytes: int) -> Segment:
    """The live segment with this place, or the oldest; it ends where the next one begins."""
    segments = find_segments(folder)
    segments[-1].end_bytes = durable_bytes
    return next((s for s in reversed(segments) if s.base_bytes <= at_bytes), segments[0])


def _damage(segment: Segment, start_bytes: int) -> Damage:
    """Up to the next whole frame, or to the end of what is durable in the segment."""
    at_bytes = start_bytes - segment.base_bytes
    data = bytes_at(segment.path, at_bytes, segment.end_bytes - start_bytes)
    return Damage(segment.path, at_bytes, start_bytes, data[: next_frame(data, 1)])


def set_aside(folder: Path, damage: Damage) -> None:
    """Keep the damaged bytes in a file of their own, durably: from then on every reading of the
    spool passes them over. Raises OSError."""
    _write_durably(aside_path(folder, damage.start_bytes), damage.data)


def keep_refused(folder: Path, stretch: Stretch) -> Path:
    """A copy of frames with a receipt that was refused, for people: its segment will go, and the
    bill must not. In the spool's own form. Raises OSError."""
    path = folder / f"{REFUSED_FILE}.{stretch.start_bytes:020d}"
    _write_durably(path, b"".join(pack(frame.bodies) for frame in stretch.frames))
    return path


def _write_durably(path: Path, data: bytes) -> None:
    fresh = path.with_name(f"{path.name}.new")
    with open(fresh, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.parent)


def settle_mark(folder: Path, durable_bytes: int) -> int:
    """Where to go on: the mark, or the oldest record when the mark is no record's beginning.

    Whoever receives a record twice counts it once; one that was passed over is never counted.
    """
    mark_bytes = load_mark(folder)
    segments = find_segments(folder)
    segments[-1].end_bytes = durable_bytes
    oldest_bytes = segments[0].base_bytes
    if not oldest_bytes < mark_bytes < durable_bytes:
        return mark_bytes if mark_bytes == durable_bytes else oldest_bytes
    segment = _segment_of(folder, mark_bytes, durable_bytes)
    return mark_bytes if _begins_at(folder, segment, mark_bytes) else oldest_bytes


def _begins_at(folder: Path, segment: Segment, mark_bytes: int) -> bool:
    """Whether a frame of the segment begins there."""
    asides = find_asides(folder)
    file = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return any(at_bytes == mark_bytes for at_bytes, _ in walk(file, segment, asides))
    finally:
        os.close(file)


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
