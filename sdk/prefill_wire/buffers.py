"""Where a state is put together: one array for each tensor of the schema, and ranges of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from prefill_wire.chunks import ChunkHeader
from prefill_wire.errors import IdentityError, IntegrityError
from prefill_wire.tensors import PER_TOKEN, TensorKind, TensorSpec

Key = tuple[int, TensorKind]


class StateBuffers:
    """The arrays of one state, the caller's or made here, by layer and kind."""

    def __init__(
        self, specs: Iterable[TensorSpec], given: Mapping[Key, np.ndarray] | None = None
    ) -> None:
        """`given`: C-contiguous arrays of the specs' shapes and dtypes."""
        self.specs = {spec.key: spec for spec in specs}
        self.arrays = dict(given) if given is not None else _made(self.specs)
        _check(self.specs, self.arrays)

    def range_of(self, header: ChunkHeader) -> tuple[TensorSpec, np.ndarray]:
        """The range of a tensor that a header names, as spec and as writable view."""
        whole = self.specs.get(header.key)
        if whole is None or (header.dtype, header.layout) != (whole.dtype, whole.layout):
            raise IdentityError(f"chunk {header.index}: the model has no such {header.kind.name}")
        grows = header.kind in PER_TOKEN
        start, end = span_of(header)
        other = (header.head_start, header.head_end) if grows else _tokens(header)
        whole_other = (0, whole.head_end) if grows else (0, whole.token_end)
        count = whole.token_end if grows else whole.head_end
        if not start < end <= count or other != whole_other:
            raise IdentityError(f"chunk {header.index} lies outside of its tensor")
        rows = whole.shape[0] // count
        shape = (rows * (end - start), *whole.shape[1:])
        spec = TensorSpec(
            *(whole.layer, whole.kind, whole.dtype, whole.layout, shape),
            *(header.token_start, header.token_end, header.head_start, header.head_end),
        )
        if spec.nbytes != header.raw_bytes:
            raise IntegrityError(f"chunk {header.index}: {header.raw_bytes} raw, not {spec.nbytes}")
        return spec, self.arrays[header.key][rows * start : rows * end]

    def check_tiled(self, headers: Iterable[ChunkHeader]) -> None:
        """Refuse chunks that do not cover every tensor exactly once."""
        ranges: dict[Key, list[tuple[int, int]]] = {key: [] for key in self.specs}
        for header in headers:
            ranges[header.key].append(span_of(header))
        for key, spec in self.specs.items():
            total = spec.token_end if spec.kind in PER_TOKEN else spec.head_end
            if not _tiles(ranges[key], total):
                raise IntegrityError(f"the chunks of layer {key[0]} leave a gap or overlap")

    def zero(self) -> None:
        """Leave nothing usable behind."""
        for array in self.arrays.values():
            array.fill(0)


def span_of(header: ChunkHeader) -> tuple[int, int]:
    """Where a chunk begins and ends along its tensor's growing axis: tokens, else heads."""
    if header.kind in PER_TOKEN:
        return _tokens(header)
    return header.head_start, header.head_end


def _tokens(header: ChunkHeader) -> tuple[int, int]:
    return header.token_start, header.token_end


def _tiles(ranges: list[tuple[int, int]], total: int) -> bool:
    """Whether half-open ranges cover 0..total once, without gap or overlap."""
    position = 0
    for start, end in sorted(ranges):
        if start != position:
            return False
        position = end
    return position == total


def _made(specs: Mapping[Key, TensorSpec]) -> dict[Key, np.ndarray]:
    return {key: np.zeros(spec.shape, spec.dtype.numpy_name) for key, spec in specs.items()}


def _check(specs: Mapping[Key, TensorSpec], arrays: Mapping[Key, np.ndarray]) -> None:
    for key, spec in specs.items():
        array = arrays.get(key)
        if (
            array is None
            or array.shape != spec.shape
            or array.dtype != np.dtype(spec.dtype.numpy_name)
        ):
            raise IdentityError(f"buffer {key} must have shape {spec.shape}, {spec.dtype.name}")
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise IdentityError(f"buffer {key} must be C-contiguous and writable")
