"""Bytes whose order says nothing, compressed by zstd's Huffman coder; what does not shrink stays.

zstd looks for repetitions too, and in such bytes finds short ones that cost more than they save
(2.89 bits a byte of 2.55 bits' entropy at level 1): a match of 7 bytes and a table of 64 entries
leave it next to none (2.61).
"""

from __future__ import annotations

import numpy as np
import zstandard

from prefill_kernels.pack.element import PackError

_RAW, _ZSTD = 0, 1
_WORTH = 0.95  # below this ratio of sizes decompression earns its time
_SAMPLE_BYTES = 1 << 14
_PARAMETERS = zstandard.ZstdCompressionParameters(
    strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, window_log=17
)


def packed(plane: np.ndarray) -> tuple[int, memoryview | bytes]:
    """How a contiguous uint8 array is kept, and its bytes; noise is told by its middle."""
    compressor = zstandard.ZstdCompressor(compression_params=_PARAMETERS)
    at = max(0, len(plane) - _SAMPLE_BYTES) // 2
    sample = plane[at : at + _SAMPLE_BYTES]
    if len(compressor.compress(sample.data)) >= _WORTH * len(sample):
        return _RAW, plane.data
    body = compressor.compress(plane.data)
    return (_ZSTD, body) if len(body) < _WORTH * len(plane) else (_RAW, plane.data)


def unpacked(method: int, body: memoryview, items: int) -> np.ndarray:
    """The `items` bytes of a plane; nothing larger is ever allocated."""
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
