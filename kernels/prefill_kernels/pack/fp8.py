"""The 8-bit float e4m3 (finite, no infinities): 448 at most, 3 bits of mantissa, 2^-9 at least."""

from __future__ import annotations

import numpy as np

FP8_TOP = 448.0
_LEAST_EXPONENT, _MANTISSA_BITS = -6, 3


def fp8_encode(values: np.ndarray) -> np.ndarray:
    """Nearest code, ties to even, of float32 values within +-448."""
    size = np.abs(values)
    exponent = np.maximum(np.frexp(size)[1] - 1, _LEAST_EXPONENT)
    exponent = np.where(size > 0, exponent, _LEAST_EXPONENT)  # frexp gives 0 the exponent of 0.5
    steps = np.rint(np.ldexp(size, _MANTISSA_BITS - exponent)).astype(np.int32)
    code = ((exponent - _LEAST_EXPONENT) << _MANTISSA_BITS) + steps
    sign = np.where(np.signbit(values), 0x80, 0)
    return np.asarray(np.minimum(code, 0x7E) | sign, np.uint8)


def _table() -> np.ndarray:
    code = np.arange(128)
    exponent, mantissa = code >> _MANTISSA_BITS, code & 7
    normal = np.ldexp(8.0 + mantissa, exponent - 1 + _LEAST_EXPONENT - _MANTISSA_BITS)
    subnormal = np.ldexp(mantissa.astype(float), _LEAST_EXPONENT - _MANTISSA_BITS)
    half = np.where(exponent == 0, subnormal, normal)
    half[127] = 0  # the one NaN: nothing that we write
    return np.concatenate([half, -half]).astype(np.float32)


_VALUES = _table()


def fp8_decode(codes: np.ndarray) -> np.ndarray:
    """float32 values of codes, by a table."""
    return np.asarray(_VALUES[codes])
