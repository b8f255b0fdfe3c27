"""The attempts a worker holds: reserved memory, fencing, leases. Time is given, nothing is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

from prefill_wire.codecs import Codec
from prefill_wire.producer import Finished
from prefill_wire.sealing import AttemptContext
from prefill_wire.status import StatusCode
from prefill_wire.tensors import TensorKind

from prefill_data.errors import DataPlaneError
from prefill_data.transport.store import ChunkStore

PROMPT_BYTES_PER_TOKEN = 12  # the ids as they came, as uint32 and as the engine's int64


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What the gateway admitted; `expires_at_ms` (Unix) ends the lease of whatever comes of it."""

    request_id: str
    attempt: int
    fencing_epoch: int
    tenant: str
    key_id: str
    model: str
    token_count: int
    prompt_digest: bytes
    one_time_public_key: bytes
    offered_wire_versions: tuple[int, ...]
    offered_codecs: tuple[str, ...]
    codec_policy: str
    codecs: Mapping[TensorKind, Codec]
    max_connections: int
    expires_at_ms: int

    @property
    def context(self) -> AttemptContext:
        """What every seal is bound to."""
        return AttemptContext(self.request_id, self.attempt, self.tenant, self.prompt_digest)


class Phase(Enum):
    """How far an attempt is."""

    ADMITTED = auto()
    RUNNING = auto()
    FINISHED = auto()


@dataclass(slots=True)
class Attempt:
    """One attempt; `connection_key` is there once the prompt is."""

    admission: Admission
    store: ChunkStore
    reserved_bytes: int
    phase: Phase = Phase.ADMITTED
    connection_key: bytes | None = field(default=None, repr=False)
    connections: int = 0
    progress: Callable[[], int] = field(default=lambda: 0)
    task: asyncio.Task[Finished] | None = None

    @property
    def token_count(self) -> int:
        """Tokens of the prompt."""
        return self.admission.token_count

    @property
    def done_tokens(self) -> int:
        """Tokens prefilled so far."""
        return self.progress()


@dataclass(frozen=True, slots=True)
class AttemptLimits:
    """The memory of all attempts together, the part of one that keeps chunks, and the spill."""

    memory_cap_bytes: int
    stream_memory_bytes: int
    spill_dir: Path


class AttemptBook:
    """All attempts by request and number; everything that is freed is freed here."""

    def __init__(self, limits: AttemptLimits) -> None:
        self._limits = limits
        self._attempts: dict[tuple[str, int], Attempt] = {}
        self._newest: dict[str, tuple[int, int]] = {}  # request -> (fencing epoch, attempt)
        self.reserved_bytes = 0

    def __len__(self) -> int:
        return len(self._attempts)

    def admit(self, admission: Admission, sequence_bytes: int) -> Attempt:
        """Reserve what a job needs; raises CAPACITY_EXHAUSTED or ATTEMPT_FENCED."""
        order = (admission.fencing_epoch, admission.attempt)
        newest = self._newest.get(admission.request_id, (0, 0))
        if order <= newest:
            raise DataPlaneError(
                StatusCode.ATTEMPT_FENCED,
                f"attempt {order[1]} of epoch {order[0]} comes after {newest[1]} of {newest[0]}",
            )
        prompt_bytes = PROMPT_BYTES_PER_TOKEN * admission.token_count
        needed = sequence_bytes + self._limits.stream_memory_bytes + prompt_bytes
        free = self._limits.memory_cap_bytes - self.reserved_bytes
        if needed > free:
            raise DataPlaneError(
                StatusCode.CAPACITY_EXHAUSTED,
                f"{admission.token_count} tokens need {needed} bytes, free are {free} of "
                f"{self._limits.memory_cap_bytes}",
                retry_after_ms=1000,
            )
        for key in [k for k in self._attempts if k[0] == admission.request_id]:
            self.release(*key)
        store = ChunkStore(self._limits.stream_memory_bytes, self._limits.spill_dir)
        attempt = Attempt(admission, store, needed)
        self.reserved_bytes += needed
        self._newest[admission.request_id] = order
        self._attempts[admission.request_id, admission.attempt] = attempt
        return attempt

    def find(self, request_id: str, number: int) -> Attempt:
        """The attempt; ATTEMPT_NOT_FOUND when it never was or has been freed."""
        attempt = self._attempts.get((request_id, number))
        if attempt is None:
            raise DataPlaneError(
                StatusCode.ATTEMPT_NOT_FOUND, f"attempt {number} of {request_id} is not held here"
            )
        return attempt

    def shrink(self, attempt: Attempt) -> None:
        """After the prefill: the engine's memory is free again, the chunks stay."""
        kept = self._limits.stream_memory_bytes
        if self._attempts.get(_key(attempt)) is attempt and attempt.reserved_bytes > kept:
            self.reserved_bytes -= attempt.reserved_bytes - kept
            attempt.reserved_bytes = kept

    def release(
        self, request_id: str, number: int, code: StatusCode = StatusCode.ATTEMPT_NOT_FOUND
    ) -> None:
        """Free an attempt and end what runs or waits for it; unknown ones are ignored."""
        attempt = self._attempts.pop((request_id, number), None)
        if attempt is None:
            return
        self.reserved_bytes -= attempt.reserved_bytes
        attempt.store.fail(DataPlaneError(code, f"attempt {number} of {request_id} was freed"))
        if attempt.task is not None:
            attempt.task.cancel()

    def expire(self, now_ms: int) -> list[str]:
        """Free every attempt whose lease is over; their request ids."""
        over = [k for k, a in self._attempts.items() if now_ms >= a.admission.expires_at_ms]
        for key in over:
            self.release(*key, StatusCode.LEASE_EXPIRED)
        held = {request for request, _ in self._attempts}
        self._newest = {r: order for r, order in self._newest.items() if r in held}
        return [request for request, _ in over]


def _key(attempt: Attempt) -> tuple[str, int]:
    return attempt.admission.request_id, attempt.admission.attempt
