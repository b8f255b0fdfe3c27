"""A gateway's memory of quotas on its own disk, so that its next run knows what this one was told.

Lost or damaged it costs no more than the memory itself: a Redis that lost its data as well may
give a quota once more. So it is written now and then, is not synced, and refuses nothing.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import msgspec
import structlog

from prefill_data.limits.memory import QuotaMemory, Told

log = structlog.get_logger()
QUOTA_FILE = "quotas"
KEEP_SECONDS = 10.0
ROWS_A_LINE = 500  # between two lines other threads have their turn
_LINE = msgspec.json.Decoder(list[Told])


class KeptQuotas:
    """The file of one memory; only the owner of its folder writes there."""

    def __init__(self, folder: Path, memory: QuotaMemory) -> None:
        self._path, self._memory = folder / QUOTA_FILE, memory
        self._changes = memory.changes
        self._writing = threading.Lock()  # a write outlives the task that waited for it

    def recall(self) -> None:
        """Give the memory what the run before this one was told."""
        try:
            lines = self._path.read_bytes().splitlines()
            rows = [told for line in lines for told in _LINE.decode(line)]
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError) as error:
            log.warning("kept quotas cannot be read", file=str(self._path), reason=str(error))
            return
        # Asked for at no time of this run: what is told of next may put all in doubt.
        self._memory.told.update((told.bucket.id, told._replace(at_us=0)) for told in rows)

    async def run(self, every_seconds: float = KEEP_SECONDS) -> None:
        """Keep up with the memory for as long as the process."""
        while True:
            await asyncio.sleep(every_seconds)
            await self.save()

    async def save(self) -> None:
        """Once, when there is something new; a disk that fails is named and tried again."""
        if self._changes == self._memory.changes:
            return
        changes, rows = self._memory.changes, list(self._memory.told.values())
        try:
            await asyncio.to_thread(self._write, rows)
        except OSError as error:
            log.warning("quotas cannot be kept", file=str(self._path), reason=str(error))
        else:
            self._changes = changes

    def _write(self, rows: Sequence[Told]) -> None:
        """Whole or not at all, unless the machine dies. Raises OSError."""
        fresh, rest = self._path.with_suffix(".new"), iter(rows)
        with self._writing:
            with open(fresh, "wb") as file:
                while line := list(islice(rest, ROWS_A_LINE)):
                    file.write(msgspec.json.encode(line) + b"\n")
            fresh.replace(self._path)
