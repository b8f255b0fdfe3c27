"""What a session needs of the engine that decodes here: the seam for other engines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from prefill_wire.identity import ModelIdentity
from prefill_wire.tensors import StateSchema

from prefill_cloud.decode.sampling import Sampling
from prefill_cloud.decode.text import Vocabulary
from prefill_cloud.state import PrefilledState


@dataclass(frozen=True, slots=True)
class Handle:
    """Names a sequence of one engine."""

    number: int


@runtime_checkable
class DecodeEngine(Protocol):
    """An engine with one model. Calls block; a session makes them in a thread of its own.

    `tokens` are `[N]` uint32. A sequence stands at token N-1 when it is loaded or prefilled;
    `decode` recomputes the last one, so that the recurrent state is applied to it once.
    """

    @property
    def identity(self) -> ModelIdentity:
        """Whom to ask the cloud for."""
        ...

    @property
    def schema(self) -> StateSchema:
        """The tensors that `load` takes."""
        ...

    @property
    def max_tokens(self) -> int:
        """The longest sequence, prompt and new tokens together."""
        ...

    @property
    def vocabulary(self) -> Vocabulary | None:
        """Text to tokens and back; None when this engine takes token ids only."""
        ...

    def prefix(self, tokens: np.ndarray, capacity_tokens: int, *, exact: bool) -> int:
        """Tokens at the prompt's start whose state this engine holds, with room for the rest.

        `exact`: nothing that grew from a state which was rounded on its way counts.
        """
        ...

    def load(self, state: PrefilledState, tokens: np.ndarray, capacity_tokens: int) -> Handle:
        """A sequence that stands at token N-1 with a verified state."""
        ...

    def open(self, tokens: np.ndarray, capacity_tokens: int, *, exact: bool) -> Handle:
        """A sequence to prefill here; it begins at the prefix that the engine holds."""
        ...

    def prefill(self, handle: Handle) -> int:
        """Advance by at most one step towards token N-1; the tokens covered then."""
        ...

    def decode(self, handle: Handle, sampling: Sampling) -> Iterator[int]:
        """New token ids, one by one, until the capacity is used up."""
        ...

    def close(self, handle: Handle) -> None:
        """The generation is over; the engine may keep the sequence as a prefix."""
        ...
