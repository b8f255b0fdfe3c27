"""Byte planes: one stream a significance of byte, those worth it compressed by zstd, losslessly.

Sign and exponent bytes of neighbouring state values are alike, mantissa bytes are noise; apart,
the former shrink and the latter are not slowed down by an attempt to shrink them.
Payload: per plane `u8 method | u32 size`, then the planes' bytes, the lowest significance first.
"""

from __future__ import annotations

import struct

import numpy as np
import zstandard

from prefill_kernels.pack.element import PackError

_ENTRY = struct.Struct("<BI")
_RAW, _ZSTD = 0, 1
_LEVEL = 1
_WORTH = 0.95  # below this ratio of sizes decompression earns its time


def encode_planes(data: np.ndarray) -> bytes:
    """`data`: uint8 `[items, item_bytes]`."""
    compressor = zstandard.ZstdCompressor(level=_LEVEL)
    entries, bodies = [], []
    for plane in range(data.shape[1]):
        raw = np.ascontiguousarray(data[:, plane]).tobytes()
        packed = compressor.compress(raw)
        method, body = (_ZSTD, packed) if len(packed) < _WORTH * len(raw) else (_RAW, raw)
        entries.append(_ENTRY.pack(method, len(body)))
        bodies.append(body)
    return b"".join(entries + bodies)


def decode_planes(payload: bytes, out: np.ndarray) -> None:
    """Write a payload into `out`, uint8 `[items, item_bytes]`; allocates one plane at a time."""
    items, planes = out.shape
    position = planes * _ENTRY.size
    if len(payload) < position:
        raise PackError(f"payload of {len(payload)} bytes, its table alone has {position}")
    view = memoryview(payload)
    for plane in range(planes):
        method, size = _ENTRY.unpack_from(payload, plane * _ENTRY.size)
        body = view[position : position + size]
        if len(body) != size:
            raise PackError(f"plane {plane} has {len(body)} bytes of the {size} declared")
        out[:, plane] = _plane(method, body, items)
        position += size
    if position != len(payload):
        raise PackError(f"payload has {len(payload) - position} bytes too many")


def _plane(method: int, body: memoryview, items: int) -> np.ndarray:
    if method == _ZSTD:
        raw: bytes | memoryview = _decompress(body, items)
    elif method == _RAW:
        raw = body
    else:
        raise PackError(f"plane method {method} is unknown")
    if len(raw) != items:
        raise PackError(f"a plane of {len(raw)} bytes, expected {items}")
    return np.frombuffer(raw, np.uint8)


def _decompress(body: memoryview, items: int) -> bytes:
    """The declared size is held to the expected one before zstd allocates anything."""
    try:
        declared = zstandard.frame_content_size(body)
        if declared != items:
            raise PackError(f"a zstd plane declares {declared} bytes, expected {items}")
        return zstandard.ZstdDecompressor().decompress(body)
    except zstandard.ZstdError as error:
        raise PackError(f"a zstd plane does not decompress: {error}") from None
