"""A Hadamard transform before rows of int8 or groups of int4: outliers are spread evenly."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefill_kernels.pack.element import ElementType, PackError
from prefill_kernels.pack.encoded import Encoded
from prefill_kernels.pack.fast import buffer, is_bf16, kernels
from prefill_kernels.pack.rows import (
    LARGEST,
    TOO_LARGE,
    as_rows,
    expect,
    from_bf16,
    measured,
    narrowed,
    read_scales,
    row_count,
    scales,
    widened,
    within,
)

GROUP = 32  # elements in a line that are transformed together and share a scale of int4
INT4_TOP = 7
MATRIX = struct.Struct("<II")  # heads a payload of int8: K and V
_SIDES = frozenset({16, 32, 64, 128, 256})


def walsh(values: np.ndarray) -> np.ndarray:
    """The Hadamard transform of the last axis, not normed: butterflies, the widest first."""
    *lead, size = values.shape
    mixed, half = values.astype(np.float32), size // 2
    while half:
        pairs = mixed.reshape(*lead, size // (2 * half), 2, half)
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        mixed = np.stack([first + second, first - second], axis=-2).reshape(values.shape)
        half //= 2
    return mixed


def norm(size: int) -> np.float32:
    """What makes a transform of so many elements orthonormal."""
    return np.float32(1 / np.sqrt(size))


@dataclass(frozen=True, slots=True)
class _Coded:
    """Arrays to write codes to; or, from an encode, what was told of them."""

    scale: np.ndarray
    codes: np.ndarray


@dataclass(frozen=True, slots=True)
class _Told:
    """The largest error of any element, and the largest decoded element."""

    error: float
    decoded_peak: float


class HadamardInt8Codec:
    """Two-sided transform of `[.., K, V]`, then int8 rows."""

    def encode(self, block: np.ndarray, element: ElementType) -> Encoded:
        """For the recurrent state; other shapes are transformed in lines of 32."""
        k, v = matrix_of(block.shape)
        items = row_count(block.size, k * v) * k * v
        scale_bytes = 2 * (items // v)
        payload = buffer(MATRIX.size + scale_bytes + items)
        payload[: MATRIX.size] = np.frombuffer(MATRIX.pack(k, v), np.uint8)
        scale = payload[MATRIX.size : MATRIX.size + scale_bytes].view(np.uint16)
        codes = payload[MATRIX.size + scale_bytes :].view(np.int8)
        told = _encode_int8(block, element, (k, v), _Coded(scale, codes))
        if not within(from_bf16(scale)):  # a sum over a matrix of large elements is larger yet
            raise PackError(f"a scale is above {LARGEST}; send the block by a lossless codec")
        return Encoded(payload.tobytes(), measured(told.error, told.decoded_peak, element))

    def decode(self, payload: bytes, element: ElementType, out: np.ndarray) -> None:
        """Codes times scales, transformed back: the transform is its own inverse."""
        if len(payload) < MATRIX.size:
            raise PackError(f"payload of {len(payload)} bytes, its head alone has {MATRIX.size}")
        found, (k, v) = MATRIX.unpack_from(payload), matrix_of(out.shape)
        if found != (k, v):
            raise PackError(f"a matrix of {found[0]} x {found[1]}, expected {k} x {v}")
        items = row_count(out.size, k * v) * k * v
        expect(len(payload), MATRIX.size + 2 * (items // v) + items)
        view = memoryview(payload)[MATRIX.size :]
        scale = read_scales(view[: 2 * (items // v)])
        codes, library = np.frombuffer(view[2 * (items // v) :], np.int8), kernels(out, element)
        if library is None:
            narrowed(_int8_back(codes, scale, (k, v))[: out.size], element, out)
            return
        places = (codes.ctypes.data, scale.ctypes.data, out.ctypes.data)
        library.prefill_hadamard_int8_decode(*places, out.size, k, v, is_bf16(element))


class HadamardInt4Codec:
    """Transform of 32 elements in a line, one scale and 32 codes of 4 bits.

    The first half of a group lies in the low nibbles.
    """

    def encode(self, block: np.ndarray, element: ElementType) -> Encoded:
        """The smallest; the error is measured."""
        groups = row_count(block.size, GROUP)
        payload = buffer(groups * (2 + GROUP // 2))
        scale, codes = payload[: 2 * groups].view(np.uint16), payload[2 * groups :]
        told = _encode_int4(block, element, _Coded(scale, codes))
        return Encoded(payload.tobytes(), measured(told.error, told.decoded_peak, element))

    def decode(self, payload: bytes, element: ElementType, out: np.ndarray) -> None:
        """Codes times scales, transformed back."""
        groups = row_count(out.size, GROUP)
        expect(len(payload), groups * (2 + GROUP // 2))
        view = memoryview(payload)
        scale = read_scales(view[: 2 * groups])
        codes, library = np.frombuffer(view[2 * groups :], np.uint8), kernels(out, element)
        if library is None:
            narrowed(_int4_back(codes, scale)[: out.size], element, out)
            return
        places = (codes.ctypes.data, scale.ctypes.data, out.ctypes.data)
        library.prefill_hadamard_int4_decode(*places, out.size, is_bf16(element))


def matrix_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """K and V of a state; a line of 32 where the last two axes are no powers of two in range."""
    if len(shape) >= 2 and set(shape[-2:]) <= _SIDES:
        return shape[-2], shape[-1]
    return 1, GROUP


def _encode_int8(
    block: np.ndarray, element: ElementType, sides: tuple[int, int], coded: _Coded
) -> _Told:
    library = kernels(block, element)
    if library is not None:
        return _by_library(library.prefill_hadamard_int8_encode, block, element, sides, coded)
    flat, (k, v) = widened(block, element), sides
    mixed = _two_sided(as_rows(flat, k * v).reshape(-1, k, v)) * norm(k * v)
    rows = mixed.reshape(-1, v)
    coded.scale[...], inverse = scales(rows, 127)
    coded.codes[...] = np.rint(rows * inverse[:, None]).astype(np.int8).reshape(-1)
    return _compared(_int8_back(coded.codes, from_bf16(coded.scale), sides), flat)


def _int8_back(codes: np.ndarray, scale: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    k, v = sides
    rows = walsh(codes.reshape(-1, v)) * (scale * norm(k * v))[:, None]
    return _down(rows.reshape(-1, k, v)).reshape(-1)


def _encode_int4(block: np.ndarray, element: ElementType, coded: _Coded) -> _Told:
    library = kernels(block, element)
    if library is not None:
        return _by_library(library.prefill_hadamard_int4_encode, block, element, (), coded)
    flat = widened(block, element)
    rows = walsh(as_rows(flat, GROUP)) * norm(GROUP)
    coded.scale[...], inverse = scales(rows, INT4_TOP)
    nibbles = (np.rint(rows * inverse[:, None]) + 8).astype(np.uint8)
    first, second = nibbles[:, : GROUP // 2], nibbles[:, GROUP // 2 :]
    coded.codes[...] = (first | (second << 4)).reshape(-1)
    return _compared(_int4_back(coded.codes, from_bf16(coded.scale)), flat)


def _int4_back(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    packed = codes.reshape(-1, GROUP // 2)
    nibbles = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32) - 8
    return (walsh(nibbles) * (scale * norm(GROUP))[:, None]).reshape(-1)


def _two_sided(blocks: np.ndarray) -> np.ndarray:
    return _down(walsh(blocks))


def _down(blocks: np.ndarray) -> np.ndarray:
    return walsh(blocks.swapaxes(-1, -2)).swapaxes(-1, -2)


def _compared(back: np.ndarray, flat: np.ndarray) -> _Told:
    decoded = back[: flat.size]
    error = float(np.abs(decoded - flat).max(initial=0.0))
    return _Told(error, float(np.abs(decoded).max(initial=0.0)))


def _by_library(
    encode: Any, block: np.ndarray, element: ElementType, sides: tuple[int, ...], coded: _Coded
) -> _Told:
    told = np.zeros(2, np.float32)
    places = (block.ctypes.data, coded.scale.ctypes.data, coded.codes.ctypes.data)
    if not encode(*places, block.size, *sides, is_bf16(element), told.ctypes.data):
        raise PackError(TOO_LARGE)
    return _Told(float(told[0]), float(told[1]))
