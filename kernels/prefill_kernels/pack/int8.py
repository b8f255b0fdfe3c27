"""Rows of int8 with a scale: by numpy, the reference, and natively where a compiler is."""

from __future__ import annotations

import ctypes

import numpy as np

from prefill_kernels.native import native
from prefill_kernels.pack.element import ElementType, PackError
from prefill_kernels.pack.rows import (
    LARGEST,
    TOO_LARGE,
    as_rows,
    narrowed,
    scales,
    widened,
)

TOP = 127


def int8_encode(
    block: np.ndarray, element: ElementType, width: int, coded: tuple[np.ndarray, np.ndarray]
) -> float:
    """Write scales `[rows]` uint16 and codes `[items]` int8; returns the largest |element|."""
    scale, codes = coded
    library = native().library
    if library is None or not _plain(block, element):
        return _by_numpy(block, element, width, coded)
    peak = ctypes.c_float()
    places = (block.ctypes.data, scale.ctypes.data, codes.ctypes.data)
    bf16 = int(element is ElementType.BFLOAT16)
    finite = library.prefill_int8_encode(*places, block.size, width, bf16, ctypes.byref(peak))
    if not finite or peak.value > LARGEST:
        raise PackError(TOO_LARGE)
    return float(peak.value)


def int8_decode(
    codes: np.ndarray, scale: np.ndarray, width: int, target: tuple[ElementType, np.ndarray]
) -> None:
    """Write codes times the scales of their rows."""
    element, out = target
    library = native().library
    if library is None or not _plain(out, element):
        narrowed(codes * np.repeat(scale, width)[: out.size], element, out)
        return
    places = (codes.ctypes.data, scale.ctypes.data, out.ctypes.data)
    library.prefill_int8_decode(*places, out.size, width, int(element is ElementType.BFLOAT16))


def _plain(array: np.ndarray, element: ElementType) -> bool:
    return array.dtype == np.dtype(element.numpy_name) and bool(array.flags.c_contiguous)


def _by_numpy(
    block: np.ndarray, element: ElementType, width: int, coded: tuple[np.ndarray, np.ndarray]
) -> float:
    flat = widened(block, element)
    rows = as_rows(flat, width)
    scale, inverse = scales(rows, TOP)
    coded[0][...] = scale
    coded[1][...] = np.rint(rows * inverse[:, None]).astype(np.int8).reshape(-1)[: flat.size]
    return float(np.abs(flat).max(initial=0.0))
