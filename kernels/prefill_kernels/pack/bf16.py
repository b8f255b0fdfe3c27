"""float32 rounded to bfloat16."""

from __future__ import annotations

import numpy as np

from prefill_kernels.pack.element import ElementType, PackError
from prefill_kernels.pack.encoded import Encoded
from prefill_kernels.pack.fast import buffer, is_bf16, kernels
from prefill_kernels.pack.rows import (
    LARGEST,
    TOO_LARGE,
    expect,
    from_bf16,
    narrowed,
    to_bf16,
    widened,
    within,
)


class Bf16Codec:
    """float32 rounded to bfloat16; bfloat16 as it is."""

    def encode(self, block: np.ndarray, element: ElementType) -> Encoded:
        """Half the bytes of float32; the error is measured. Nothing may round to above 1e30."""
        library = kernels(block, element)
        if library is None:
            flat = widened(block, element)
            bits = to_bf16(flat)
            if not within(from_bf16(bits)):
                raise PackError(TOO_LARGE)
            return Encoded(bits.tobytes(), float(np.abs(from_bf16(bits) - flat).max(initial=0.0)))
        bits, told = buffer(2 * block.size).view(np.uint16), np.zeros(2, np.float32)
        places = (block.ctypes.data, bits.ctypes.data)
        fine = library.prefill_bf16_encode(*places, block.size, is_bf16(element), told.ctypes.data)
        if not fine or not within(from_bf16(to_bf16(told[:1]))):  # the largest, rounded
            raise PackError(TOO_LARGE)
        return Encoded(bits.tobytes(), float(told[1]))

    def decode(self, payload: bytes, element: ElementType, out: np.ndarray) -> None:
        """Widen again."""
        expect(len(payload), 2 * out.size)
        bits, library = np.frombuffer(payload, "<u2"), kernels(out, element)
        if library is None:
            values = from_bf16(bits)
            fine = within(values)
            if fine:
                narrowed(values, element, out)
        else:
            places = (bits.ctypes.data, out.ctypes.data)
            fine = library.prefill_bf16_decode(*places, out.size, is_bf16(element))
        if not fine:
            raise PackError(f"a value is undefined or above {LARGEST}")
