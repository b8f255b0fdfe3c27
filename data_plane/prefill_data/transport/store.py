"""The sealed chunks of one attempt: a bounded part in memory, the rest in an unlinked file."""

import asyncio
import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prefill_wire.chunks import ChunkHeader
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError


@dataclass(frozen=True, slots=True)
class _Kept:
    header: ChunkHeader
    memory: bytes | None
    offset_bytes: int
    size_bytes: int


class ChunkStore:
    """Append-only by index; a retransmission serves the very ciphertext that was sealed.

    One thread adds; everything else belongs to the event loop, which `announce` tells. Reads of
    the file run in threads of their own. Whoever uses the file holds it: a close that frees
    everything leaves it to the last of them, for a closed descriptor's number may be anybody's.
    """

    def __init__(self, memory_bound_bytes: int, spill_dir: Path) -> None:
        self._bound_bytes = memory_bound_bytes
        self._spill_dir = spill_dir
        self._file: int | None = None
        self._file_bytes = 0
        self._kept: list[_Kept] = []
        self._watchers: set[Callable[[], None]] = set()
        self._lock = threading.Lock()
        self._holders = 0
        self._closed = False
        self.memory_bytes = 0
        self.finished = False
        self.failure: DataPlaneError | None = None

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def free_bytes(self) -> int:
        """Bytes that memory still takes: what is added within them does not go to disk."""
        return self._bound_bytes - self.memory_bytes

    def add(self, header: ChunkHeader, ciphertext: bytes) -> None:
        """Keeps the next chunk; raises STORAGE_EXHAUSTED when the spill disk is full."""
        size = len(ciphertext)
        with self._lock:
            self._check_open()
            if size <= self.free_bytes:
                self._kept.append(_Kept(header, ciphertext, 0, size))
                self.memory_bytes += size
                return
        with self._held():
            offset = self._spill(ciphertext)
        with self._lock:
            self._check_open()
            self._kept.append(_Kept(header, None, offset, size))

    def _check_open(self) -> None:
        if self.failure is not None:
            raise self.failure
        if self._closed:
            raise DataPlaneError(StatusCode.ATTEMPT_NOT_FOUND, "the attempt's chunks are freed")

    def announce(self) -> None:
        """Tells the connections what was added."""
        for told in tuple(self._watchers):
            told()

    def finish(self) -> None:
        """No chunk follows."""
        self.finished = True
        self.announce()

    def fail(self, error: DataPlaneError) -> None:
        """The attempt is over without a state; waiting connections are told. Frees everything."""
        self.failure = self.failure or error
        self.finished = False
        self.close()
        self.announce()

    async def read(self, index: int) -> tuple[ChunkHeader, bytes]:
        """Header and ciphertext of a kept chunk; what lies on disk is read in a thread."""
        if self.failure is not None:
            raise self.failure
        kept = self._kept[index]
        if kept.memory is not None:
            return kept.header, kept.memory
        return kept.header, await asyncio.to_thread(self._read_spilled, kept)

    def _read_spilled(self, kept: _Kept) -> bytes:
        with self._held():
            with self._lock:
                self._check_open()
                file = self._file
            try:
                if file is None:
                    raise FileNotFoundError(errno.ENOENT, "nothing was spilled")
                data = os.pread(file, kept.size_bytes, kept.offset_bytes)
            except OSError as error:
                raise _unreadable(kept, str(error.strerror)) from error
        if len(data) != kept.size_bytes:
            raise _unreadable(kept, f"{len(data)} bytes are there")
        return data

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Keeps the file open for a block, and closes it when everything was freed meanwhile."""
        with self._lock:
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if self._closed and not self._holders:
                    self._close_file()

    def watch(self, told: Callable[[], None]) -> None:
        """Calls `told` at whatever is announced: chunks, the finish or the failure."""
        self._watchers.add(told)

    def unwatch(self, told: Callable[[], None]) -> None:
        """Calls it no more."""
        self._watchers.discard(told)

    def close(self) -> None:
        """Frees memory and disk; the spill file has no name, so a kill frees it too."""
        with self._lock:
            self._closed = True
            self._kept.clear()
            self.memory_bytes = 0
            if not self._holders:
                self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _spill(self, ciphertext: bytes) -> int:
        try:
            if self._file is None:
                self._file, name = tempfile.mkstemp(dir=self._spill_dir)
                os.unlink(name)
            done = 0
            while done < len(ciphertext):
                done += os.pwrite(self._file, ciphertext[done:], self._file_bytes + done)
        except OSError as error:
            raise DataPlaneError(
                StatusCode.STORAGE_EXHAUSTED,
                f"{len(ciphertext)} bytes cannot be spilled: {error.strerror}",
                "free space in PREFILL_SPILL_DIR",
            ) from error
        offset = self._file_bytes
        self._file_bytes += len(ciphertext)
        return offset


def _unreadable(kept: _Kept, why: str) -> DataPlaneError:
    return DataPlaneError(
        StatusCode.STORAGE_EXHAUSTED,
        f"{kept.size_bytes} spilled bytes cannot be read: {why}",
        "check the disk of PREFILL_SPILL_DIR",
    )
