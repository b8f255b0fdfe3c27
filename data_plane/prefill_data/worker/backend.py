"""PrefillBackend: the seam behind which a whole prefill service sits, ours or another engine's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from prefill_engine.engine import Piece
from prefill_wire.identity import ModelIdentity
from prefill_wire.tensors import StateSchema


@dataclass(frozen=True, slots=True)
class ModelCapability:
    """A model that a backend serves, what its state consists of, and how large a prompt may be."""

    identity: ModelIdentity
    schema: StateSchema
    max_tokens: int
    vocab_size: int


@dataclass(frozen=True, slots=True)
class PrefillJob:
    """N tokens (uint32 `[N]`) of one tenant; the state that is made covers N-1 of them."""

    job_id: str
    tenant: str
    model: str
    tokens: np.ndarray

    @property
    def state_tokens(self) -> int:
        """Tokens that the state covers: the decoder recomputes the last one."""
        return len(self.tokens) - 1


@dataclass(frozen=True, slots=True)
class PrefillTimes:
    """Where a job's time went, in microseconds: waiting for turns, and its own steps."""

    queue_us: int
    prefill_us: int


class PieceSink(Protocol):
    """Takes the pieces of one job in order."""

    async def put(self, *pieces: Piece) -> None:
        """Returns when the pieces were worked off, so that a backend cannot run ahead of them."""
        ...

    def progress(self, done_tokens: int) -> None:
        """Says how far the prefill is."""
        ...


class PrefillBackend(Protocol):
    """What a worker needs from an engine."""

    def capabilities(self) -> tuple[ModelCapability, ...]:
        """The models served."""
        ...

    def sequence_bytes(self, model: str, token_count: int) -> int:
        """Memory that a job of so many tokens occupies while it runs."""
        ...

    async def submit(self, job: PrefillJob, sink: PieceSink) -> PrefillTimes:
        """Runs a job to its end; cancelling this call ends the job within one step."""
        ...

    async def close(self) -> None:
        """Ends what runs."""
        ...
