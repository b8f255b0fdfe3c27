"""The codecs by name, behind one interface."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from prefill_kernels.pack.bf16 import Bf16Codec
from prefill_kernels.pack.byte_rows import FP8_ROW, INT8_ROW
from prefill_kernels.pack.element import ElementType, PackError
from prefill_kernels.pack.encoded import Encoded
from prefill_kernels.pack.hadamard import HadamardInt4Codec, HadamardInt8Codec
from prefill_kernels.pack.int12 import Int12ZstdCodec
from prefill_kernels.pack.planes import decode_planes, encode_planes


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
        _items(block, element)
        return Encoded(encode_planes(block, element), 0.0)

    def decode(self, payload: bytes, element: ElementType, out: np.ndarray) -> None:
        """Decompress and interleave the planes."""
        _items(out, element)
        decode_planes(payload, element, out)


_LOSSLESS: dict[str, Codec] = {"raw": RawCodec(), "planes-zstd": PlanesZstdCodec()}
_LOSSY: dict[str, Codec] = {
    "bf16": Bf16Codec(),
    "int12-zstd": Int12ZstdCodec(),
    "int8-row": INT8_ROW,
    "fp8-row": FP8_ROW,
    "hadamard-int8": HadamardInt8Codec(),
    "hadamard-int4": HadamardInt4Codec(),
}
_HEAD_BYTES = 32  # planes: 5 bytes a plane, 4 planes; heads, scales and padding of the others


def names() -> tuple[str, ...]:
    """Every codec; each has a number on the wire."""
    return (*_LOSSLESS, *_LOSSY)


def lossless_names() -> tuple[str, ...]:
    """The codecs that give every bit back, the cheapest first."""
    return tuple(_LOSSLESS)


def lossy_names() -> tuple[str, ...]:
    """The codecs that round, the most exact first."""
    return tuple(_LOSSY)


def codec(name: str) -> Codec:
    """The codec of this name."""
    found = _LOSSLESS.get(name) or _LOSSY.get(name)
    if found is None:
        known = ", ".join((*_LOSSLESS, *_LOSSY))
        raise PackError(f"codec {name!r} is unknown, there are {known}")
    return found


def max_payload_bytes(name: str, raw_bytes: int) -> int:
    """The largest payload that `raw_bytes` of state can become."""
    codec(name)
    if name == "raw":
        return raw_bytes
    return raw_bytes + (2 * 32 if name.startswith("hadamard") else 0) + _HEAD_BYTES


def _items(array: np.ndarray, element: ElementType) -> np.ndarray:
    """The array's bytes as a view `[items, item_bytes]`."""
    if array.dtype != np.dtype(element.numpy_name) or not array.flags.c_contiguous:
        expected = f"C-contiguous {element.numpy_name} for {element.name}"
        raise PackError(f"array is {array.dtype.str}, strides {array.strides}; expected {expected}")
    return array.reshape(-1).view(np.uint8).reshape(-1, element.item_bytes)
