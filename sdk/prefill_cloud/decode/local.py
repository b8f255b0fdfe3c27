"""The engine in this process: a StepEngine that loads states, prefills and decodes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from prefill_wire.identity import ModelIdentity
from prefill_wire.status import StatusCode
from prefill_wire.tensors import StateSchema

from prefill_cloud.decode.engine import Handle
from prefill_cloud.decode.sampling import Sampler, Sampling
from prefill_cloud.decode.text import Vocabulary
from prefill_cloud.errors import error_for
from prefill_cloud.state import PrefilledState

if TYPE_CHECKING:
    from prefill_engine.engine import Handle as StepHandle
    from prefill_engine.engine import StepEngine

_FEED_TOKENS = 64  # what follows a kept prefix is fed token by token; a step is this many


@dataclass(slots=True)
class _Sequence:
    """A prompt and what followed it.

    `unknown`: the step engine has not seen the tokens ahead, since they came after it was opened.
    `exact`: its state is what prefilling here gives, not one that a codec rounded.
    """

    handle: StepHandle
    tokens: list[int] = field(repr=False)
    prompt_tokens: int
    capacity_tokens: int
    unknown: bool = False
    exact: bool = True


class LocalEngine:
    """A `DecodeEngine` over one StepEngine; a lock keeps it to one thread at a time.

    The last `kept_sequences` generations stay loaded: a prompt that continues one of them, as the
    next turn of a conversation does, is prefilled from there. `spare_tokens`: the room for it.
    """

    def __init__(
        self,
        engine: StepEngine,
        *,
        vocabulary: Vocabulary | None = None,
        kept_sequences: int = 1,
        spare_tokens: int = 1024,
    ) -> None:
        self._engine, self._vocabulary = engine, vocabulary
        self._kept_sequences = kept_sequences
        self._spare_tokens = spare_tokens if kept_sequences else 0
        self._lock = threading.RLock()
        self._open: dict[Handle, _Sequence] = {}
        self._kept: list[_Sequence] = []
        self._opened = 0

    @classmethod
    def from_folder(
        cls, folder: Path | str, *, profile: str = "fp32", max_tokens: int | None = None
    ) -> LocalEngine:
        """An engine and its text from a Hugging Face folder; `ImportError` without [local]."""
        try:
            from prefill_engine.engine import StepEngine
        except ModuleNotFoundError as missing:
            message = f"LocalEngine needs {missing.name}: install prefill-cloud[local]"
            raise ImportError(message, name=missing.name) from missing

        from prefill_cloud.decode.chat import CheckpointText

        path = Path(folder)
        engine = StepEngine.load(path, profile=profile, max_tokens=max_tokens)
        return cls(engine, vocabulary=CheckpointText(path))

    @property
    def identity(self) -> ModelIdentity:
        """Name, fingerprints and numerics profile of the checkpoint."""
        return self._engine.identity

    @property
    def schema(self) -> StateSchema:
        """The model's state."""
        return self._engine.schema

    @property
    def max_tokens(self) -> int:
        """The step engine's own limit."""
        return self._engine.max_tokens

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The checkpoint's text, when the engine was made with it."""
        return self._vocabulary

    def prefix(self, tokens: np.ndarray, capacity_tokens: int, *, exact: bool = False) -> int:
        """Tokens that a kept sequence has covered and that this prompt begins with."""
        with self._lock:
            kept = self._longest(tokens, capacity_tokens, exact)
            return 0 if kept is None else self._engine.position(kept.handle)

    def _longest(self, tokens: np.ndarray, capacity_tokens: int, exact: bool) -> _Sequence | None:
        """The kept sequence that covers most of this prompt, short of its last token."""
        best, covered = None, 0
        for kept in self._kept:
            if exact and not kept.exact:
                continue
            position = self._engine.position(kept.handle)
            fits = covered < position < len(tokens) and capacity_tokens <= kept.capacity_tokens
            if fits and np.array_equal(tokens[:position], kept.tokens[:position]):
                best, covered = kept, position
        return best

    def load(self, state: PrefilledState, tokens: np.ndarray, capacity_tokens: int) -> Handle:
        """Copy a verified state in; `IntegrityFailureError` when it is not this model's."""
        from prefill_engine.errors import StateMismatch

        capacity = self._roomy(capacity_tokens)
        with self._lock:
            try:
                handle = self._engine.load_state(state.state_tokens, state.tensors, capacity)
            except StateMismatch as error:
                code = StatusCode.IDENTITY_FAILURE
                raise error_for(code, f"{error.message}.", state.request_id) from None
            fields = (handle, tokens.tolist(), len(tokens), capacity)
            return self._add(_Sequence(*fields, exact=state.exact))

    def open(self, tokens: np.ndarray, capacity_tokens: int, *, exact: bool = False) -> Handle:
        """Begin at the kept prefix, or at nothing; `InvalidRequestError` for ids out of range."""
        with self._lock:
            kept = self._longest(tokens, capacity_tokens, exact)
            if kept is not None:
                self._kept.remove(kept)
                kept.tokens, kept.prompt_tokens = tokens.tolist(), len(tokens)
                kept.unknown = True
                return self._add(kept)
            capacity = self._roomy(capacity_tokens)
            handle = self._opened_handle(tokens, capacity)
            return self._add(_Sequence(handle, tokens.tolist(), len(tokens), capacity))

    def _opened_handle(self, tokens: np.ndarray, capacity: int) -> StepHandle:
        if len(tokens) and int(tokens.max()) >= self._engine.vocab_size:
            position = int(np.flatnonzero(tokens >= self._engine.vocab_size)[0])
            message = f"the id at position {position} is not below {self._engine.vocab_size}."
            raise error_for(StatusCode.TOKEN_OUT_OF_RANGE, message)
        if capacity > self._engine.max_tokens:
            message = f"{capacity} tokens are asked for, the engine's limit is {self.max_tokens}."
            raise error_for(StatusCode.PROMPT_TOO_LONG, message)
        return self._engine.open(np.pad(tokens, (0, capacity - len(tokens))))

    def _roomy(self, capacity_tokens: int) -> int:
        spare = min(self._spare_tokens, self._engine.max_tokens - capacity_tokens)
        return capacity_tokens + max(0, spare)

    def _add(self, sequence: _Sequence) -> Handle:
        self._opened += 1
        handle = Handle(self._opened)
        self._open[handle] = sequence
        return handle

    def prefill(self, handle: Handle) -> int:
        """One step of the step engine, at most to token N-1."""
        with self._lock:
            sequence = self._open[handle]
            covered, until = self._engine.position(sequence.handle), sequence.prompt_tokens - 1
            if covered < until and sequence.unknown:
                for token in sequence.tokens[covered : min(covered + _FEED_TOKENS, until)]:
                    self._engine.decode_step(sequence.handle, token)
            elif covered < until:
                count = min(self._engine.step_tokens, until - covered)
                self._engine.step([(sequence.handle, count)])
            return self._engine.position(sequence.handle)

    def decode(self, handle: Handle, sampling: Sampling) -> Iterator[int]:
        """Recompute token N, then one token at a time."""
        sequence, sampler = self._open[handle], Sampler(sampling)
        while True:
            with self._lock:
                position = self._engine.position(sequence.handle)
                if position >= sequence.capacity_tokens:
                    return
                logits = self._engine.decode_step(sequence.handle, sequence.tokens[position])
                sequence.tokens.append(sampler.choose(logits))
            yield sequence.tokens[-1]

    def close(self, handle: Handle) -> None:
        """Keep the sequence as a prefix; the oldest kept one beyond the bound is freed."""
        with self._lock:
            sequence = self._open.pop(handle, None)
            if sequence is None:
                return
            self._kept.append(sequence)
            while len(self._kept) > self._kept_sequences:
                self._engine.close(self._kept.pop(0).handle)

    def free(self) -> None:
        """Free every kept sequence."""
        with self._lock:
            while self._kept:
                self._engine.close(self._kept.pop().handle)
