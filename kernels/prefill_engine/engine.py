"""The step engine: sequences opened, advanced by steps, their state taken out and put back.

A prefill for handoff stops at token N-1: the decoder recomputes token N, so that the recurrent
state is applied to it exactly once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from prefill_wire.identity import ModelIdentity
from prefill_wire.tensors import PER_TOKEN, Dtype, LayerState, TensorKind, TensorSpec
from torch import Tensor

from prefill_engine.config import ModelConfig
from prefill_engine.errors import SequenceError, StateMismatch, TokenOutOfRange
from prefill_engine.identity import identify
from prefill_engine.model import KimiLinear, StateTensors
from prefill_engine.schema import latent_dtype, schema_of

STEP_TOKENS = 2048
_ID_BYTES = 8
_TORCH = {Dtype.FLOAT32: torch.float32, Dtype.BFLOAT16: torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Handle:
    """Names an open sequence of one engine."""

    number: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of one state tensor; `array` is C-contiguous, bf16 as uint16, and a copy.

    The caller owns it: later steps do not change it.
    """

    spec: TensorSpec
    array: np.ndarray


@dataclass(slots=True)
class _Sequence:
    tokens: np.ndarray
    state: StateTensors
    position: int
    hidden: Tensor | None = None


class StepEngine:
    """Runs one model for many sequences; not thread-safe, one thread steps it."""

    def __init__(self, model: KimiLinear, identity: ModelIdentity, max_tokens: int) -> None:
        self.model, self.identity, self.max_tokens = model, identity, max_tokens
        self.schema = schema_of(model.config, identity.numerics_profile)
        self.step_tokens = STEP_TOKENS
        self._sequences: dict[Handle, _Sequence] = {}
        self._opened = 0

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        profile: str = "fp32",
        name: str | None = None,
        max_tokens: int | None = None,
    ) -> StepEngine:
        """An engine on a Hugging Face checkpoint folder, served as `name` (the folder's own).

        `max_tokens` bounds every sequence, prompt and new tokens together; it defaults to the
        model's context and may not exceed it. Raises `CheckpointError`, `UnsupportedConfig` or
        `TokenOutOfRange`.
        """
        folder = Path(folder)
        latent_dtype(profile)  # an unknown profile is refused before any weight is read
        model = KimiLinear(folder)
        context = model.config.context_tokens
        limit = context if max_tokens is None else max_tokens
        if not 1 <= limit <= context:
            message = f"max_tokens is {limit}, the context of {folder.name} is {context} tokens"
            raise TokenOutOfRange(message, f"ask for 1 to {context}")
        return cls(model, identify(folder).on_the_wire(profile, name), limit)

    @property
    def config(self) -> ModelConfig:
        """The model's sizes."""
        return self.model.config

    @property
    def profile(self) -> str:
        """The numerics profile: `fp32`, or `bf16-cache` for latent rows rounded at the write."""
        return self.identity.numerics_profile

    @property
    def vocab_size(self) -> int:
        """Token ids are below this."""
        return self.config.vocab_size

    def sequence_bytes(self, token_count: int) -> int:
        """Bytes that `open` or `load_state` allocates for a sequence of `token_count` tokens."""
        return self.schema.nbytes(token_count) + token_count * _ID_BYTES

    @property
    def state_bytes(self) -> int:
        """Bytes that all open sequences hold together."""
        return sum(self.sequence_bytes(len(s.tokens)) for s in self._sequences.values())

    def open(self, tokens: Sequence[int] | np.ndarray) -> Handle:
        """Begin a sequence; caches for all its tokens are allocated here, once.

        Raises `TokenOutOfRange` for an empty or over-long prompt or an id beyond the vocabulary.
        """
        ids = np.array(tokens, dtype=np.int64)
        self._check_tokens(ids)
        state = {layer.key: _empty(layer, len(ids)) for layer in self.schema.layers}
        return self._add(_Sequence(ids, state, 0))

    def _add(self, sequence: _Sequence) -> Handle:
        self._opened += 1
        handle = Handle(self._opened)
        self._sequences[handle] = sequence
        return handle

    def _check_tokens(self, ids: np.ndarray) -> None:
        self._check_count(len(ids))
        wrong = ids[(ids < 0) | (ids >= self.vocab_size)]
        if len(wrong):
            message = f"token id {wrong[0]} is not in 0 to {self.vocab_size - 1}"
            raise TokenOutOfRange(message, "tokenize with the model's own tokenizer")

    def _check_count(self, count: int) -> None:
        if not 1 <= count <= self.max_tokens:
            raise TokenOutOfRange(f"sequence of {count} tokens", f"send 1 to {self.max_tokens}")

    def _sequence(self, handle: Handle) -> _Sequence:
        if handle not in self._sequences:
            raise SequenceError(f"sequence {handle.number} is not open", "open one")
        return self._sequences[handle]

    def position(self, handle: Handle) -> int:
        """Tokens that the state of this sequence covers."""
        return self._sequence(handle).position

    def step(self, work: Sequence[tuple[Handle, int]]) -> list[Piece]:
        """Advance each sequence by its number of tokens; the latent rows that this finished."""
        pieces: list[Piece] = []
        for handle, count in work:
            sequence = self._sequence(handle)
            start, end = sequence.position, sequence.position + count
            if not start < end <= len(sequence.tokens):
                message = f"step of {count} tokens at {start} of {len(sequence.tokens)}"
                raise SequenceError(message, "step within the sequence")
            ids = torch.from_numpy(sequence.tokens[start:end])
            sequence.hidden = self.model.forward(ids, sequence.state, start)
            sequence.position = end
            pieces += self._pieces(sequence, start, end, per_token=True)
        return pieces

    def snapshot(self, handle: Handle) -> list[Piece]:
        """Recurrent and conv state at the current position, copied."""
        sequence = self._sequence(handle)
        return self._pieces(sequence, 0, sequence.position, per_token=False)

    def _pieces(self, sequence: _Sequence, start: int, end: int, *, per_token: bool) -> list[Piece]:
        pieces = []
        for layer in self.schema.layers:
            grows = layer.kind in PER_TOKEN
            if grows != per_token:
                continue
            whole = _as_numpy(sequence.state[layer.key])
            array = (whole[start:end] if grows else whole).copy()
            where = (start if grows else 0, end, 0, layer.heads)
            fields = (layer.layer, layer.kind, layer.dtype, layer.layout, array.shape)
            pieces.append(Piece(TensorSpec(*fields, *where), array))
        return pieces

    def prefill(self, handle: Handle, until: int) -> list[Piece]:
        """Step to token `until` in steps of `step_tokens`; all pieces, the snapshot included."""
        pieces: list[Piece] = []
        while (done := self.position(handle)) < until:
            pieces += self.step([(handle, min(self.step_tokens, until - done))])
        return pieces + self.snapshot(handle)

    def load_state(
        self,
        state_tokens: int,
        tensors: Mapping[tuple[int, TensorKind], np.ndarray],
        capacity_tokens: int,
    ) -> Handle:
        """A sequence that continues from a state over `state_tokens` tokens; arrays are copied.

        Raises `StateMismatch` when a tensor is missing, foreign or of another shape, and
        `TokenOutOfRange` for a capacity beyond `max_tokens` or within the state.
        """
        self._check_count(capacity_tokens)
        if not 1 <= state_tokens <= capacity_tokens:
            message = f"a state over {state_tokens} tokens in a sequence of {capacity_tokens}"
            raise TokenOutOfRange(message, "ask for a larger capacity")
        specs = {spec.key: spec for spec in self.schema.tensors(state_tokens)}
        if specs.keys() != tensors.keys():
            odd = sorted(specs.keys() ^ tensors.keys())
            raise StateMismatch(f"state tensors {odd[:4]} differ", "load this model's state")
        state: StateTensors = {}
        for layer in self.schema.layers:
            spec = specs[layer.key]
            array = tensors[spec.key]
            if array.shape != spec.shape or array.dtype != np.dtype(spec.dtype.numpy_name):
                found = f"{array.dtype} {array.shape}, not {spec.dtype.numpy_name} {spec.shape}"
                message = f"layer {spec.layer} {spec.kind.name} is {found}"
                raise StateMismatch(message, "load a state of this model and token count")
            target = _empty(layer, capacity_tokens)
            rows = target[:state_tokens] if layer.kind in PER_TOKEN else target
            rows.copy_(_from_numpy(array, spec.dtype))
            state[spec.key] = target
        return self._add(_Sequence(np.zeros(capacity_tokens, np.int64), state, state_tokens))

    def decode_step(self, handle: Handle, token: int) -> np.ndarray:
        """Append one token and give the logits `[vocab]` fp32 that follow it."""
        sequence = self._sequence(handle)
        self._check_tokens(np.array([token]))
        if sequence.position >= len(sequence.tokens):
            message = f"the sequence's {len(sequence.tokens)} tokens are used up"
            raise SequenceError(message, "open it with a larger capacity")
        sequence.tokens[sequence.position] = token
        self.step([(handle, 1)])
        return self.last_logits(handle)

    def score(self, handle: Handle, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """Append given tokens and give the logits `[n, vocab]` fp32 that follow each of them."""
        sequence = self._sequence(handle)
        ids = np.array(tokens, dtype=np.int64)
        self._check_tokens(ids)
        start, end = sequence.position, sequence.position + len(ids)
        if end > len(sequence.tokens):
            message = f"{len(ids)} tokens at {start} of {len(sequence.tokens)}"
            raise SequenceError(message, "open it with a larger capacity")
        sequence.tokens[start:end] = ids
        hidden = self.model.forward(torch.from_numpy(ids), sequence.state, start, every=True)
        sequence.hidden, sequence.position = hidden[-1:], end
        return np.asarray(self.model.logits(hidden).numpy())

    def last_logits(self, handle: Handle) -> np.ndarray:
        """Logits `[vocab]` fp32 after the last token that was stepped over."""
        hidden = self._sequence(handle).hidden
        if hidden is None:
            raise SequenceError("no token was stepped over yet", "step first")
        return np.asarray(self.model.logits(hidden)[0].numpy())

    def close(self, handle: Handle) -> None:
        """Free a sequence; closing twice is fine."""
        self._sequences.pop(handle, None)


def _empty(layer: LayerState, capacity_tokens: int) -> Tensor:
    return torch.zeros(layer.shape(capacity_tokens), dtype=_TORCH[layer.dtype])


def _as_numpy(tensor: Tensor) -> np.ndarray:
    """The same memory as an array, bfloat16 as uint16."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _from_numpy(array: np.ndarray, dtype: Dtype) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.view(torch.bfloat16) if dtype is Dtype.BFLOAT16 else tensor
