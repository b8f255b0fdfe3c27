"""Rows of integers of 12 bits with a scale each, their high bytes compressed.

A step is 1/64 of the row's root mean square, whatever its largest element is: an error of 0.45% of
the row's norm. Of all rows with that mean square a normal one has the most entropy, 8.05 bits an
element; int8 spends as much on steps of a 127th of the largest element, an error of 0.7%.
Payload: `u32 width | u8 method | u32 size`, scales, high bytes, low halves (those of the first half
of all elements in the low nibbles).
"""

from __future__ import annotations

import struct

import numpy as np

from prefill_kernels.pack.element import ElementType, PackError
from prefill_kernels.pack.encoded import Encoded
from prefill_kernels.pack.entropy import packed, unpacked
from prefill_kernels.pack.fast import buffer, is_bf16, kernels
from prefill_kernels.pack.rows import (
    LARGEST,
    TOO_LARGE,
    as_rows,
    bound,
    expect,
    inverses,
    narrowed,
    read_scales,
    read_width,
    rounded_up,
    row_count,
    row_width,
    widened,
)

STEPS = 64  # in the root mean square of a row
TOP = 2047
_LANES = 16
_HEAD = struct.Struct("<IBI")


class Int12ZstdCodec:
    """Fine steps of a row's root mean square, entropy coded."""

    def encode(self, block: np.ndarray, element: ElementType) -> Encoded:
        """Rows are the last axis; the bound is half the largest step."""
        width, items = row_width(block), block.size
        rows, half = row_count(items, width), (items + 1) // 2
        space = buffer(2 * rows + 2 * items)
        scale, high = space[: 2 * rows].view(np.uint16), space[2 * rows : 2 * rows + items]
        low = space[2 * rows + items :]
        peak = _encode(block, element, width, (scale, high, low))
        error = bound(0.501, scale, peak, element)
        method, body = packed(high)
        head = _HEAD.pack(width, method, len(body))
        return Encoded(b"".join((head, scale.data, body, low[:half].data)), error)

    def decode(self, payload: bytes, element: ElementType, out: np.ndarray) -> None:
        """Codes times the scales of their rows."""
        width = read_width(payload, _HEAD.size, out)
        _, method, size = _HEAD.unpack_from(payload)
        rows, half = row_count(out.size, width), (out.size + 1) // 2
        expect(len(payload), _HEAD.size + 2 * rows + size + half)
        view = memoryview(payload)[_HEAD.size :]
        scale = read_scales(view[: 2 * rows])
        high = unpacked(method, view[2 * rows : 2 * rows + size], out.size).view(np.int8)
        low, library = np.frombuffer(view[2 * rows + size :], np.uint8), kernels(out, element)
        if library is None:
            nibbles = np.concatenate([low & 15, low >> 4])[: out.size]
            codes = (high.astype(np.int32) * 16 + nibbles).astype(np.float32)
            narrowed(codes * np.repeat(scale, width)[: out.size], element, out)
            return
        places = (high.ctypes.data, low.ctypes.data, scale.ctypes.data, out.ctypes.data)
        library.prefill_int12_decode(*places, out.size, width, is_bf16(element))


def _encode(
    block: np.ndarray,
    element: ElementType,
    width: int,
    coded: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> float:
    """Write scales, high bytes and the packed low halves; returns the largest |element|."""
    library = kernels(block, element)
    if library is None:
        return _by_numpy(block, element, width, coded)
    peak = np.zeros(1, np.float32)
    places = (block.ctypes.data, *(each.ctypes.data for each in coded))
    arguments = (*places, block.size, width, is_bf16(element), peak.ctypes.data)
    if not library.prefill_int12_encode(*arguments) or peak[0] > LARGEST:
        raise PackError(TOO_LARGE)
    return float(peak[0])


def _by_numpy(
    block: np.ndarray,
    element: ElementType,
    width: int,
    coded: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> float:
    scale, high, low = coded
    flat = widened(block, element)
    rows = as_rows(flat, width)
    peaks = np.abs(rows).max(axis=1, initial=0.0)
    fine = (np.sqrt(_squares(rows) / width) / STEPS).astype(np.float32)
    scale[...] = rounded_up(np.maximum(fine, peaks / np.float32(TOP)), peaks)
    codes = np.rint(rows * inverses(scale)[:, None]).astype(np.int16).reshape(-1)[: flat.size]
    high[...] = (codes >> 4).astype(np.int8).view(np.uint8)
    nibbles, half = (codes & 15).astype(np.uint8), len(low) - len(low) // 2
    low[:half] = nibbles[:half]
    low[: len(low) - half] |= nibbles[half:] << 4
    return float(np.abs(flat).max(initial=0.0))


def _squares(rows: np.ndarray) -> np.ndarray:
    """Sums of squares in 16 lanes, in the order that the native form adds them."""
    missing = -rows.shape[1] % _LANES
    wide = np.pad(rows, ((0, 0), (0, missing))).astype(np.float64) ** 2
    lanes = np.zeros((len(rows), _LANES))
    for at in range(0, wide.shape[1], _LANES):
        lanes += wide[:, at : at + _LANES]
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]
