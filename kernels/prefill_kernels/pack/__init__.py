"""Lossless codecs of state tensors, in numpy: `raw` and `planes-zstd`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
import zstandard

Block = np.ndarray[Any, Any]
ZSTD_LEVEL = 1  # the high-byte plane gains little beyond it, and costs several times the time


class ElementType(IntEnum):
    """Element types; numpy has no bfloat16, so its blocks are uint16."""

    FLOAT32 = 1
    BFLOAT16 = 2

    @property
    def dtype(self) -> np.dtype[Any]:
        """The little-endian numpy type that carries it."""
        return np.dtype("<f4" if self is ElementType.FLOAT32 else "<u2")


class PackError(Exception):
    """A block or a payload that is not what its declaration says."""


@dataclass(frozen=True)
class Encoded:
    """A payload and the largest error of any element: 0 for a lossless codec."""

    payload: bytes
    error_bound: float


class Codec(Protocol):
    """Blocks to bytes and back."""

    def encode(self, block: Block, element: ElementType) -> Encoded:
        """Encode a C-contiguous block of any shape."""

    def decode(self, payload: bytes | memoryview, element: ElementType, out: Block) -> None:
        """Write exactly `out`, or raise `PackError`."""


def _check(block: Block, element: ElementType) -> None:
    if block.dtype != element.dtype or not block.flags.c_contiguous:
        raise PackError(f"a block is {block.dtype}, not C-contiguous {element.dtype}; convert it")


class _Raw:
    def encode(self, block: Block, element: ElementType) -> Encoded:
        _check(block, element)
        return Encoded(block.tobytes(), 0.0)

    def decode(self, payload: bytes | memoryview, element: ElementType, out: Block) -> None:
        _check(out, element)
        if len(payload) != out.nbytes:
            raise PackError(f"a raw payload is {len(payload)} bytes, not {out.nbytes}; send again")
        out.reshape(-1)[:] = np.frombuffer(payload, element.dtype)


class _PlanesZstd:
    """The highest byte of every element by zstd, the rest as they are: u32 size, zstd, rest."""

    def encode(self, block: Block, element: ElementType) -> Encoded:
        _check(block, element)
        planes = block.reshape(-1).view(np.uint8).reshape(-1, element.dtype.itemsize)
        high = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(planes[:, -1].tobytes())
        rest = planes[:, :-1].tobytes()
        return Encoded(len(high).to_bytes(4, "little") + high + rest, 0.0)

    def decode(self, payload: bytes | memoryview, element: ElementType, out: Block) -> None:
        _check(out, element)
        view = memoryview(payload)
        width = element.dtype.itemsize
        rest_bytes = out.size * (width - 1)
        end = 4 + int.from_bytes(view[:4], "little")
        if len(view) < 4 or end + rest_bytes != len(view):
            raise PackError(f"a planes-zstd payload of {len(view)} bytes does not add up")
        plane = _inflate(bytes(view[4:end]), out.size)
        planes = out.reshape(-1).view(np.uint8).reshape(-1, width)
        planes[:, -1] = np.frombuffer(plane, np.uint8)
        planes[:, :-1] = np.frombuffer(view[end:], np.uint8).reshape(-1, width - 1)


def _inflate(data: bytes, size: int) -> bytes:
    """Exactly `size` bytes; the frame's own size is checked before anything is allocated."""
    try:
        frame = zstandard.get_frame_parameters(data)
        if frame.content_size != size:
            raise PackError(f"a plane declares {frame.content_size} bytes, not {size}")
        inflater = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
        plane = inflater.decompress(data)
    except zstandard.ZstdError as error:
        raise PackError(f"a plane is not zstd: {error}") from error
    if len(plane) != size or inflater.unused_data or not inflater.eof:
        raise PackError(f"a plane is {len(plane)} bytes, not {size}")
    return plane


_CODECS: dict[str, Codec] = {"raw": _Raw(), "planes-zstd": _PlanesZstd()}


def names() -> tuple[str, ...]:
    """The codecs, plainest first."""
    return tuple(_CODECS)


def codec(name: str) -> Codec:
    """The codec of this name, or `PackError`."""
    if name not in _CODECS:
        raise PackError(f"codec {name!r} is unknown; use one of {names()}")
    return _CODECS[name]


def max_payload_bytes(name: str, raw_bytes: int) -> int:
    """The largest payload that a block of `raw_bytes` can become."""
    codec(name)
    return raw_bytes if name == "raw" else raw_bytes + (raw_bytes >> 8) + 128
