"""The lossy codecs: bfloat16, rows of int8 or fp8 with a scale, Hadamard transforms before them.

Payloads carry what the array's shape does not tell: `u32 width` of a row, then scales, then codes.
Every encode returns the largest error of any element, known exactly or bounded from above.
"""

from __future__ import annotations

import struct
import threading
from functools import cache

import numpy as np

from prefill_kernels.pack.element import ElementType, PackError
from prefill_kernels.pack.encoded import Encoded
from prefill_kernels.pack.fp8 import FP8_TOP, fp8_decode, fp8_encode
from prefill_kernels.pack.int8 import int8_decode, int8_encode
from prefill_kernels.pack.rows import (
    LARGEST,
    as_rows,
    from_bf16,
    narrowed,
    read_scales,
    rounding_of_output,
    row_count,
    row_width,
    scales,
    to_bf16,
    widened,
)

_WIDTH = struct.Struct("<I")
_MATRIX = struct.Struct("<II")
SHORTEST, MAX_WIDTH = 32, 1 << 16
GROUP = 32  # elements that share a scale of int4
INT4_TOP = 7


class Bf16Codec:
    """float32 rounded to bfloat16; bfloat16 as it is."""

    def encode(self, block: np.ndarray, element: ElementType) -> Encoded:
        """Half the bytes of float32."""
        flat = widened(block, element)
        bits = to_bf16(flat)
        error = float(np.abs(from_bf16(bits) - flat).max(initial=0.0))
        return Encoded(bits.tobytes(), error)

    def decode(self, payload: bytes, element: ElementType, out: np.ndarray) -> None:
        """Widen again."""
        _expect(len(payload), 2 * out.size)
        values = from_bf16(np.frombuffer(payload, "<u2"))
        if not (np.abs(values) <= LARGEST).all():
            raise PackError(f"a value is undefined or above {LARGEST}")
        narrowed(values, element, out)


class Int8RowCodec:
    """A scale and int8 codes for each row."""

    def encode(self, block: np.ndarray, element: ElementType) -> Encoded:
        """Rows are the last axis; the bound is half the largest step."""
        width = row_width(block)
        rows, items = row_count(block.size, width), block.size
        buffer = _buffer(_WIDTH.size + 2 * rows + items)
        buffer[: _WIDTH.size] = np.frombuffer(_WIDTH.pack(width), np.uint8)
        scale = buffer[_WIDTH.size : _WIDTH.size + 2 * rows].view(np.uint16)
        codes = buffer[_WIDTH.size + 2 * rows :].view(np.int8)
        peak = int8_encode(block, element, width, (scale, codes))
        step = float(from_bf16(scale).max(initial=0.0))
        error = 0.501 * step + rounding_of_output(peak, element) if step else peak
        return Encoded(buffer.tobytes(), error)

    def decode(self, payload: bytes, element: ElementType, out: np.ndarray) -> None:
        """Codes times scales."""
        width, scale, codes = _split_rows(payload, out.size, 1)
        int8_decode(np.frombuffer(codes, np.int8), scale, width, (element, out))


class Fp8RowCodec:
    """A scale and e4m3 codes for each row."""

    def encode(self, block: np.ndarray, element: ElementType) -> Encoded:
        """Rows as for int8; the error is measured."""
        flat = widened(block, element)
        rows = as_rows(flat, row_width(block))
        scale, inverse = scales(rows, FP8_TOP)
        codes = fp8_encode(rows * inverse[:, None])
        back = (fp8_decode(codes) * from_bf16(scale)[:, None]).reshape(-1)[: flat.size]
        head = _WIDTH.pack(rows.shape[1]) + scale.tobytes()
        body = codes.reshape(-1)[: flat.size].tobytes()
        return Encoded(head + body, _error(back, flat, element))

    def decode(self, payload: bytes, element: ElementType, out: np.ndarray) -> None:
        """A table look-up and the scale."""
        width, scale, codes = _split_rows(payload, out.size, 1)
        values = fp8_decode(np.frombuffer(codes, np.uint8))
        narrowed(values * np.repeat(scale, width)[: out.size], element, out)


class HadamardInt8Codec:
    """Two-sided Hadamard transform of `[.., K, V]`, then int8 rows: outliers are spread evenly."""

    def encode(self, block: np.ndarray, element: ElementType) -> Encoded:
        """For the recurrent state; other shapes are transformed in lines of 32."""
        flat = widened(block, element)
        k, v = _matrix(block.shape)
        mixed = _two_sided(as_rows(flat, k * v).reshape(-1, k, v))
        rows = mixed.reshape(-1, v)
        scale, inverse = scales(rows, 127)
        codes = np.rint(rows * inverse[:, None]).astype(np.int8)
        steps = codes * from_bf16(scale)[:, None]
        back = _two_sided(steps.reshape(-1, k, v)).reshape(-1)[: flat.size]
        payload = _MATRIX.pack(k, v) + scale.tobytes() + codes.tobytes()
        return Encoded(payload, _error(back, flat, element))

    def decode(self, payload: bytes, element: ElementType, out: np.ndarray) -> None:
        """Codes times scales, transformed back: the transform is its own inverse."""
        if len(payload) < _MATRIX.size:
            raise PackError(f"payload of {len(payload)} bytes, its head alone has {_MATRIX.size}")
        k, v = _MATRIX.unpack_from(payload)
        if (k, v) != (1, GROUP) and not {k, v} <= _SIDES:
            raise PackError(f"a matrix of {k} x {v}, its sides are powers of two from 16 to 256")
        items = row_count(out.size, k * v) * k * v
        _expect(len(payload), _MATRIX.size + 2 * (items // v) + items)
        view = memoryview(payload)[_MATRIX.size :]
        scale = read_scales(view[: 2 * (items // v)])
        codes = np.frombuffer(view[2 * (items // v) :], np.int8).reshape(-1, v)
        values = _two_sided((codes * scale[:, None]).reshape(-1, k, v))
        narrowed(values.reshape(-1)[: out.size], element, out)


class HadamardInt4Codec:
    """Hadamard transform of 32 elements in a line, one scale and 32 codes of 4 bits."""

    def encode(self, block: np.ndarray, element: ElementType) -> Encoded:
        """The smallest; the error is measured."""
        flat = widened(block, element)
        rows = _line(as_rows(flat, GROUP))
        scale, inverse = scales(rows, INT4_TOP)
        codes = np.rint(rows * inverse[:, None]).astype(np.int8)
        back = _line(codes * from_bf16(scale)[:, None]).reshape(-1)[: flat.size]
        nibbles = (codes + 8).astype(np.uint8)
        packed = nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)
        return Encoded(scale.tobytes() + packed.tobytes(), _error(back, flat, element))

    def decode(self, payload: bytes, element: ElementType, out: np.ndarray) -> None:
        """Codes times scales, transformed back."""
        groups = row_count(out.size, GROUP)
        _expect(len(payload), groups * (2 + GROUP // 2))
        view = memoryview(payload)
        scale = read_scales(view[: 2 * groups])
        packed = np.frombuffer(view[2 * groups :], np.uint8).reshape(groups, GROUP // 2)
        codes = np.empty((groups, GROUP), np.float32)
        codes[:, 0::2] = packed & 15
        codes[:, 1::2] = packed >> 4
        values = _line((codes - 8) * scale[:, None])
        narrowed(values.reshape(-1)[: out.size], element, out)


_kept = threading.local()


def _buffer(count: int) -> np.ndarray:
    """Bytes of this thread to put a payload together in: fresh pages cost more than the coding."""
    buffer: np.ndarray | None = getattr(_kept, "buffer", None)
    if buffer is None or len(buffer) < count:
        buffer = _kept.buffer = np.empty(count, np.uint8)
    return buffer[:count]


_SIDES = frozenset({16, 32, 64, 128, 256})


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """K and V of a state; a line of 32 where the last two axes are no powers of two in range."""
    if len(shape) >= 2 and set(shape[-2:]) <= _SIDES:
        return shape[-2], shape[-1]
    return 1, GROUP


@cache
def hadamard(size: int) -> np.ndarray:
    """The orthonormal Hadamard matrix `[size, size]`, size a power of two; symmetric."""
    matrix = np.ones((1, 1), np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.asarray(matrix / np.sqrt(np.float32(size)), np.float32)


def _two_sided(blocks: np.ndarray) -> np.ndarray:
    k, v = blocks.shape[-2:]
    return np.asarray(hadamard(k) @ blocks @ hadamard(v), np.float32)


def _line(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows @ hadamard(rows.shape[-1]), np.float32)


def _error(back: np.ndarray, flat: np.ndarray, element: ElementType) -> float:
    """The largest error, that of writing the values down included; a little up for other BLAS."""
    peak = float(np.abs(back).max(initial=0.0))
    largest = float(np.abs(back - flat).max(initial=0.0))
    return 1.001 * largest + 1e-6 * peak + rounding_of_output(peak, element)


def _split_rows(payload: bytes, items: int, item_bytes: int) -> tuple[int, np.ndarray, memoryview]:
    """Width, scales and codes of a payload whose every size is checked first."""
    if len(payload) < _WIDTH.size:
        raise PackError(f"payload of {len(payload)} bytes, its head alone has {_WIDTH.size}")
    (width,) = _WIDTH.unpack_from(payload)
    if not SHORTEST <= width <= MAX_WIDTH:
        raise PackError(f"rows of {width} elements, not {SHORTEST} to {MAX_WIDTH}")
    rows = row_count(items, width)
    _expect(len(payload), _WIDTH.size + 2 * rows + item_bytes * items)
    view = memoryview(payload)[_WIDTH.size :]
    return width, read_scales(view[: 2 * rows]), view[2 * rows :]


def _expect(found: int, wanted: int) -> None:
    if found != wanted:
        raise PackError(f"payload of {found} bytes, expected {wanted}")
