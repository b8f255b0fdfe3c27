"""The codecs by name, behind one interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from prefill_kernels.pack.element import ElementType, PackError
from prefill_kernels.pack.planes import decode_planes, encode_planes


@dataclass(frozen=True, slots=True)
class Encoded:
    """A payload, and the largest absolute error of any element; 0 for a lossless codec."""

    payload: bytes
    error_bound: float


class Codec(Protocol):
    """What every codec does."""

    def encode(self, block: np.ndarray, element: ElementType) -> Encoded:
        """Code a C-contiguous array of `element`'s numpy type."""
        ...

    def decode(self, payload: bytes, element: ElementType, out: np.ndarray) -> None:
        """Write exactly `out`, a C-contiguous array; `PackError` on anything that is off."""
        ...


class RawCodec:
    """The bytes as they are."""

    def encode(self, block: np.ndarray, element: ElementType) -> Encoded:
        """Copy the array's bytes."""
        return Encoded(_items(block, element).tobytes(), 0.0)

    def decode(self, payload: bytes, element: ElementType, out: np.ndarray) -> None:
        """Copy a payload of exactly the array's size."""
        target = _items(out, element)
        if len(payload) != target.size:
            raise PackError(f"raw payload of {len(payload)} bytes, expected {target.size}")
        target[...] = np.frombuffer(payload, np.uint8).reshape(target.shape)


class PlanesZstdCodec:
    """Byte planes and zstd; lossless."""

    def encode(self, block: np.ndarray, element: ElementType) -> Encoded:
        """Split into planes and compress the ones that shrink."""
        return Encoded(encode_planes(_items(block, element)), 0.0)

    def decode(self, payload: bytes, element: ElementType, out: np.ndarray) -> None:
        """Decompress and interleave the planes."""
        decode_planes(payload, _items(out, element))


_CODECS: dict[str, Codec] = {"raw": RawCodec(), "planes-zstd": PlanesZstdCodec()}


def names() -> tuple[str, ...]:
    """All codecs, the cheapest first."""
    return tuple(_CODECS)


def codec(name: str) -> Codec:
    """The codec of this name."""
    if name not in _CODECS:
        raise PackError(f"codec {name!r} is unknown, there are {', '.join(_CODECS)}")
    return _CODECS[name]


def max_payload_bytes(name: str, raw_bytes: int) -> int:
    """The largest payload that `raw_bytes` of state can become."""
    codec(name)
    return raw_bytes if name == "raw" else raw_bytes + 20  # the table: 5 bytes a plane, 4 planes


def _items(array: np.ndarray, element: ElementType) -> np.ndarray:
    """The array's bytes as a view `[items, item_bytes]`."""
    if array.dtype != np.dtype(element.numpy_name) or not array.flags.c_contiguous:
        expected = f"C-contiguous {element.numpy_name} for {element.name}"
        raise PackError(f"array is {array.dtype.str}, strides {array.strides}; expected {expected}")
    return array.reshape(-1).view(np.uint8).reshape(-1, element.item_bytes)
