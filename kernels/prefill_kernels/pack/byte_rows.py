"""Rows of one byte an element with a scale each: int8 and fp8."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from prefill_kernels.pack.element import ElementType, PackError
from prefill_kernels.pack.encoded import Encoded
from prefill_kernels.pack.fast import buffer, is_bf16, kernels
from prefill_kernels.pack.fp8 import FP8_TOP, fp8_decode, fp8_encode
from prefill_kernels.pack.rows import (
    LARGEST,
    TOO_LARGE,
    WIDTH,
    as_rows,
    bound,
    narrowed,
    row_count,
    row_width,
    scales,
    split_rows,
    widened,
)


@dataclass(frozen=True, slots=True)
class ByteRowCodec:
    """A scale and a byte of code for each element of a row; rows are the last axis.

    `top` is the largest code, `worst` the largest error in units of a scale; `to_code` and
    `from_code` are the numpy forms, `native` names the others.
    """

    native: str
    top: float
    worst: float
    to_code: Callable[[np.ndarray], np.ndarray]
    from_code: Callable[[np.ndarray], np.ndarray]

    def encode(self, block: np.ndarray, element: ElementType) -> Encoded:
        """Head, scales, codes; the bound is that of the largest scale."""
        width, items = row_width(block), block.size
        rows = row_count(items, width)
        payload = buffer(WIDTH.size + 2 * rows + items)
        payload[: WIDTH.size] = np.frombuffer(WIDTH.pack(width), np.uint8)
        scale = payload[WIDTH.size : WIDTH.size + 2 * rows].view(np.uint16)
        peak = self._encode(block, element, width, (scale, payload[WIDTH.size + 2 * rows :]))
        return Encoded(payload.tobytes(), bound(self.worst, scale, peak, element))

    def _encode(
        self,
        block: np.ndarray,
        element: ElementType,
        width: int,
        coded: tuple[np.ndarray, np.ndarray],
    ) -> float:
        """Write scales and codes; returns the largest |element|."""
        scale, codes = coded
        library = kernels(block, element)
        if library is None:
            flat = widened(block, element)
            rows = as_rows(flat, width)
            scale[...], inverse = scales(rows, self.top)
            codes[...] = self.to_code(rows * inverse[:, None]).reshape(-1)[: flat.size]
            return float(np.abs(flat).max(initial=0.0))
        peak = np.zeros(1, np.float32)
        places = (block.ctypes.data, scale.ctypes.data, codes.ctypes.data)
        encode = getattr(library, f"prefill_{self.native}_encode")
        finite = encode(*places, block.size, width, is_bf16(element), peak.ctypes.data)
        if not finite or peak[0] > LARGEST:
            raise PackError(TOO_LARGE)
        return float(peak[0])

    def decode(self, payload: bytes, element: ElementType, out: np.ndarray) -> None:
        """Codes times the scales of their rows."""
        width, scale, view = split_rows(payload, out)
        codes, library = np.frombuffer(view, np.uint8), kernels(out, element)
        if library is None:
            values = self.from_code(codes) * np.repeat(scale, width)[: out.size]
            narrowed(values, element, out)
            return
        places = (codes.ctypes.data, scale.ctypes.data, out.ctypes.data)
        decode = getattr(library, f"prefill_{self.native}_decode")
        decode(*places, out.size, width, is_bf16(element))


def _int8(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(values).astype(np.int8).view(np.uint8))


INT8_ROW = ByteRowCodec("int8", 127, 0.501, _int8, lambda codes: codes.view(np.int8))
# e4m3's largest step is 32, from 256 on.
FP8_ROW = ByteRowCodec("fp8", FP8_TOP, 16.03, fp8_encode, fp8_decode)
