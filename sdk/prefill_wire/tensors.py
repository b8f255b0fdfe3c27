"""What a hybrid state consists of: kinds, layouts, and the schema that no state may deviate from.

A model's `StateSchema` together with a token count gives the exact list of tensors. A manifest is
held to that list, so a state with a missing layer cannot be written down.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import prod

from prefill_wire.errors import UnsupportedTensorKind


class TensorKind(IntEnum):
    """What a tensor is to its layer."""

    KV = 1
    LATENT_KV = 2
    RECURRENT = 3
    CONV = 4

    @property
    def part(self) -> str:
        """The part of a state that codec policies tell apart: "kv", "recurrent" or "conv"."""
        return "kv" if self in PER_TOKEN else self.name.lower()


class Dtype(IntEnum):
    """Element types; numpy has no bfloat16, so its arrays are uint16."""

    FLOAT32 = 1
    BFLOAT16 = 2
    FLOAT16 = 3

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return 4 if self is Dtype.FLOAT32 else 2

    @property
    def numpy_name(self) -> str:
        """The little-endian numpy dtype that carries it."""
        return {Dtype.FLOAT32: "<f4", Dtype.BFLOAT16: "<u2", Dtype.FLOAT16: "<f2"}[self]


class Layout(IntEnum):
    """The order of axes: `[T, D]`, `[H, K, V]`, `[H, V, K]`, `[C, W]`."""

    TOKEN_MAJOR = 1
    K_FIRST = 2
    V_FIRST = 3
    CHANNEL_MAJOR = 4


PER_TOKEN = frozenset({TensorKind.KV, TensorKind.LATENT_KV})


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a state, or a range of one; `shape` is that of the range."""

    layer: int
    kind: TensorKind
    dtype: Dtype
    layout: Layout
    shape: tuple[int, ...]
    token_start: int
    token_end: int
    head_start: int
    head_end: int

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, uncompressed."""
        return prod(self.shape) * self.dtype.item_bytes

    @property
    def key(self) -> tuple[int, TensorKind]:
        """Layer and kind: what names a tensor within its state."""
        return self.layer, self.kind


@dataclass(frozen=True, slots=True)
class LayerState:
    """One tensor of one layer, for any number of tokens.

    `row_shape` is the shape of one token's row for kv and latent kv, `[H, K, V]` for recurrent and
    `[C, W]` for conv state.
    """

    layer: int
    kind: TensorKind
    dtype: Dtype
    layout: Layout
    row_shape: tuple[int, ...]
    heads: int

    @property
    def key(self) -> tuple[int, TensorKind]:
        """Layer and kind: what names a tensor within its state."""
        return self.layer, self.kind

    def shape(self, state_tokens: int) -> tuple[int, ...]:
        """The tensor's shape after `state_tokens` tokens."""
        return (state_tokens, *self.row_shape) if self.kind in PER_TOKEN else self.row_shape

    def nbytes(self, state_tokens: int) -> int:
        """Bytes of its elements after `state_tokens` tokens, uncompressed."""
        return prod(self.shape(state_tokens)) * self.dtype.item_bytes

    def spec(self, state_tokens: int) -> TensorSpec:
        """The tensor after `state_tokens` tokens."""
        fields = (self.layer, self.kind, self.dtype, self.layout, self.shape(state_tokens))
        return TensorSpec(*fields, 0, state_tokens, 0, self.heads)


@dataclass(frozen=True, slots=True)
class StateSchema:
    """Every tensor of a model's state, by layer and kind."""

    layers: tuple[LayerState, ...]

    def tensors(self, state_tokens: int) -> tuple[TensorSpec, ...]:
        """All tensors of a state over `state_tokens` tokens, sorted by layer and kind."""
        return tuple(sorted((s.spec(state_tokens) for s in self.layers), key=lambda t: t.key))

    def nbytes(self, state_tokens: int) -> int:
        """Bytes of the whole state, uncompressed."""
        return sum(layer.nbytes(state_tokens) for layer in self.layers)


def tensor_kind(value: int) -> TensorKind:
    """The kind with this number; a typed refusal for one that is newer than this code."""
    try:
        return TensorKind(value)
    except ValueError:
        raise UnsupportedTensorKind(f"tensor kind {value} is unknown here") from None
