"""Rows of int8 with a scale on a GPU: the arithmetic of `rows.scales` and of the numpy reference.

Every operation rounds as numpy's does: divisions to nearest, no fused multiply-add (launch with
`enable_fp_fusion=False`), and codes to nearest even by the sum with 1.5 * 2^23.
"""

from __future__ import annotations

import triton
import triton.language as tl

TINY = tl.constexpr(1e-30)
LARGEST = tl.constexpr(1e30)
TOP = tl.constexpr(127.0)
NEAREST = tl.constexpr(12582912.0)  # 1.5 * 2^23: float32 beside it are the whole numbers


@triton.jit
def encode_row(values, scales, codes, peaks, items, width, WIDTH: tl.constexpr):
    """One row: int16 bits of its bfloat16 scale, int8 codes, float32 peak (Inf where a NaN is)."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, WIDTH)
    places = row * width + at
    inside = (at < width) & (places < items)
    x = tl.load(values + places, mask=inside, other=0.0).to(tl.float32)
    broken = tl.max((x != x).to(tl.int32), 0)
    peak = tl.where(broken > 0, float("inf"), tl.max(tl.abs(x), 0))
    fits = peak <= LARGEST  # the caller refuses the block where one does not
    x = tl.where(fits, x, 0.0)
    exact = tl.math.div_rn(tl.where(fits, peak, 0.0), TOP)
    bits = (exact.to(tl.int32, bitcast=True) + 0xFFFF) >> 16
    bits = tl.where(peak < TINY, 0, bits)
    scale = (bits << 16).to(tl.float32, bitcast=True)
    inverse = tl.where(bits > 0, tl.math.div_rn(1.0, tl.where(bits > 0, scale, 1.0)), 0.0)
    code = (x * inverse + NEAREST) - NEAREST
    tl.store(peaks + row, peak)
    tl.store(scales + row, bits.to(tl.int16))
    tl.store(codes + places, code.to(tl.int8), mask=inside)


@triton.jit
def decode_row(codes, scales, values, items, width, WIDTH: tl.constexpr):
    """One row of codes times its scale, rounded to the type of `values`."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, WIDTH)
    places = row * width + at
    inside = (at < width) & (places < items)
    code = tl.load(codes + places, mask=inside, other=0).to(tl.float32)
    bits = tl.load(scales + row).to(tl.int32) & 0xFFFF
    x = code * (bits << 16).to(tl.float32, bitcast=True)
    tl.store(values + places, x.to(values.dtype.element_ty), mask=inside)
