"""Receipts with their sealed manifests, appended durably before any manifest is released.

What a crash tore is cut off at start: it was never acknowledged, so its manifest was never
released. Whatever else is not whole is damage, and the spool is refused.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.metering.frames import (
    MAX_RECORD_BYTES,
    WINDOW_BYTES,
    frame_at,
    group_bytes,
    is_torn_tail,
    pack,
)
from prefill_data.metering.segments import (
    SEGMENT_BYTES,
    Segment,
    SpoolDamaged,
    bytes_at,
    find_asides,
    find_segments,
    open_file,
    own_folder,
    segment_path,
    sync_folder,
    walk,
)


class Place(NamedTuple):
    """Where a record lies: its frame in the spool, and which of the frame's records it is."""

    at_bytes: int
    size_bytes: int
    number: int


Recall = Callable[[Place, bytes], int]  # until when the record may be asked for (Unix ms)


class SpoolLost(DataPlaneError):
    """Whether the last record is on disk is unknown: the process has to end and read it again."""

    def __init__(self, path: Path, why: str | None) -> None:
        super().__init__(
            StatusCode.STORAGE_EXHAUSTED,
            f"the disk of {path.name} failed: {why}",
            "claim again once the gateway is back; operators: check the disk",
        )


class Spool:
    """The segments of one folder, owned by one gateway process.

    `append_all` may run in any one thread, `read` and `retire` beside it in others.
    """

    def __init__(
        self,
        folder: Path,
        recall: Recall = lambda place, body: 0,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        """Reads and heals the segments; refuses a folder that another process holds, and damage.

        `recall` is given every record that is there, the oldest first; none is kept here.
        """
        self.folder, self._segment_bytes = folder, segment_bytes
        self._lost: SpoolLost | None = None
        self._full = False
        self._mutex = threading.Lock()
        self._owner = own_folder(folder)
        try:
            self._segments = find_segments(folder) or [Segment(segment_path(folder, 0), 0, 0)]
            self._file = self._recall_all(recall)
            sync_folder(folder)
        except BaseException:
            os.close(self._owner)
            raise

    @property
    def oldest_bytes(self) -> int:
        """Where what is kept begins."""
        return self._segments[0].base_bytes

    @property
    def durable_bytes(self) -> int:
        """Up to where everything is on disk; what lies beyond may never have been."""
        return self._segments[-1].end_bytes

    def append_all(self, bodies: Sequence[bytes], until_ms: int) -> list[Place]:
        """Returns once all are on disk, by one fsync; raises STORAGE_EXHAUSTED and leaves none.

        `until_ms`: when the last of their leases ends. After a failed fsync nobody knows what is on
        disk: `SpoolLost`, and no append after it.
        """
        if self._lost is not None:
            raise self._lost
        if group_bytes(bodies) > MAX_RECORD_BYTES:
            raise DataPlaneError(
                StatusCode.STORAGE_EXHAUSTED,
                f"spool records of {group_bytes(bodies)} bytes are over {MAX_RECORD_BYTES}",
            )
        frame = pack(bodies)
        try:
            active = self._room_for(len(frame))
            self._write(frame, active)
        except OSError as error:
            raise DataPlaneError(
                StatusCode.STORAGE_EXHAUSTED,
                f"the receipt spool cannot be written: {error.strerror}",
                "free space in PREFILL_SPOOL_DIR and claim again",
            ) from error
        self._sync(active)
        at_bytes = active.end_bytes
        active.until_ms = max(active.until_ms, until_ms)
        active.end_bytes += len(frame)
        return [Place(at_bytes, len(frame), index) for index in range(len(bodies))]

    def read(self, place: Place) -> bytes:
        """A record, verified; LEASE_EXPIRED when its segment is deleted, or `SpoolDamaged`."""
        with self._mutex:
            found = [s for s in self._segments if s.base_bytes <= place.at_bytes < s.end_bytes]
        try:
            data = bytes_at(found[0].path, place.at_bytes - found[0].base_bytes, place.size_bytes)
        except (IndexError, FileNotFoundError):
            raise DataPlaneError(
                StatusCode.LEASE_EXPIRED, "the receipt was shipped and is kept here no more"
            ) from None
        frame = frame_at(data, 0)
        if frame is None or place.number >= len(frame.bodies):
            offset = place.at_bytes - found[0].base_bytes
            raise SpoolDamaged(found[0].path, offset, "a record that was whole")
        return frame.bodies[place.number]

    def retire(self, shipped_bytes: int, now_ms: int) -> int:
        """Delete the oldest segments, one after the other, whose every record lies below
        `shipped_bytes` and has no lease any more; how many. Raises OSError."""
        deleted = 0
        while True:
            oldest, *later = self._segments
            if not later or oldest.end_bytes > shipped_bytes or oldest.until_ms > now_ms:
                return deleted
            oldest.path.unlink(missing_ok=True)
            sync_folder(self.folder)  # before the next: a gap among segments would be damage
            with self._mutex:
                self._segments.pop(0)
            deleted += 1

    def close(self) -> None:
        """Closes the files; every appended record is already durable."""
        os.close(self._file)
        os.close(self._owner)

    def _room_for(self, size_bytes: int) -> Segment:
        """The segment to append to, a new one when the last is full; raises OSError."""
        active = self._segments[-1]
        used = active.end_bytes - active.base_bytes
        if used and used + size_bytes > self._segment_bytes:
            self._full = True
        if not self._full:
            return active
        # A crash after any of these steps leaves segments without a gap, the last perhaps empty.
        # From the first on nothing more goes into the old one, or the new one's name would lie.
        self._sync(active)  # its length too: what was taken back may not come again
        fresh = Segment(segment_path(self.folder, active.end_bytes), *[active.end_bytes] * 2)
        file = os.open(fresh.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.fsync(file)
            sync_folder(self.folder)
        except BaseException:
            os.close(file)
            raise
        os.close(self._file)
        with self._mutex:
            self._segments.append(fresh)
        self._file, self._full = file, False
        return fresh

    def _write(self, frame: bytes, active: Segment) -> None:
        """Raises OSError, and leaves nothing of a frame that did not fit."""
        end_bytes = active.end_bytes - active.base_bytes
        written = 0
        try:
            while written < len(frame):
                written += os.pwrite(self._file, frame[written:], end_bytes + written)
        except OSError:
            try:
                os.ftruncate(self._file, end_bytes)
            except OSError as error:
                self._lost = SpoolLost(active.path, error.strerror)
                raise self._lost from error
            raise

    def _sync(self, active: Segment) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:
            self._lost = SpoolLost(active.path, error.strerror)
            raise self._lost from error

    def _recall_all(self, recall: Recall) -> int:
        """Read every segment; the last one's descriptor, healed."""
        asides = find_asides(self.folder)
        for segment, following in zip(self._segments, self._segments[1:], strict=False):
            file = open_file(segment.path)
            try:
                _recall(file, segment, asides, recall)
            finally:
                os.close(file)
            if segment.end_bytes != following.base_bytes:
                at_bytes = segment.end_bytes - segment.base_bytes
                why = f"{following.path.name} does not begin where it ends"
                raise SpoolDamaged(segment.path, at_bytes, why)
        last = self._segments[-1]
        file = open_file(last.path)
        try:
            _recall(file, last, asides, recall)
            size_bytes = last.end_bytes - last.base_bytes
            if not is_torn_tail(os.pread(file, WINDOW_BYTES, size_bytes)):
                raise SpoolDamaged(last.path, size_bytes, "more than a torn last record")
            os.ftruncate(file, size_bytes)
        except BaseException:
            os.close(file)
            raise
        return file


def _recall(file: int, segment: Segment, asides: dict[int, int], recall: Recall) -> None:
    """Give every record of a segment to `recall`; sets where it ends and until when it is kept."""
    segment.end_bytes = segment.base_bytes
    for at_bytes, frame in walk(file, segment, asides):
        for index, body in enumerate(frame.bodies):
            until_ms = recall(Place(at_bytes, frame.size_bytes, index), body)
            segment.until_ms = max(segment.until_ms, until_ms)
        segment.end_bytes = at_bytes + frame.size_bytes
    while segment.end_bytes in asides:
        segment.end_bytes += asides[segment.end_bytes]


def read_receipts(folder: Path) -> list[bytes]:
    """The whole records of a spool folder, without owning it: a torn tail is left out."""
    asides = find_asides(folder)
    records: list[bytes] = []
    for segment in find_segments(folder):
        try:
            file = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # its owner has just deleted it
            continue
        try:
            for _, frame in walk(file, segment, asides):
                records += frame.bodies
        finally:
            os.close(file)
    return records
