"""Rows with a scale on a GPU, plain or behind a Hadamard transform: the arithmetic of `rows`.

Every operation rounds as numpy's does: divisions to nearest, no fused multiply-add (launch with
`enable_fp_fusion=False`), codes to nearest even by the sum with 1.5 * 2^23, and butterflies in the
order of `hadamard.walsh`.
"""

from __future__ import annotations

import triton
import triton.language as tl

TINY = tl.constexpr(1e-30)
INT8_TOP = tl.constexpr(127.0)
INT4_TOP = tl.constexpr(7.0)
GROUP = tl.constexpr(32)
TILE_ITEMS = 4096  # that one program transforms
TILE = tl.constexpr(TILE_ITEMS)
NEAREST = tl.constexpr(12582912.0)  # 1.5 * 2^23: float32 beside it are the whole numbers


@triton.jit
def scale_of(peak, top):
    """Bits of the bfloat16 not below `peak / top`, and its inverse; 0 and 0 for next to nothing."""
    bits = (tl.math.div_rn(peak, top).to(tl.int32, bitcast=True) + 0xFFFF) >> 16
    bits = tl.where(peak < TINY, 0, bits)
    scale = tl.where(bits > 0, (bits << 16).to(tl.float32, bitcast=True), 1.0)
    return bits, tl.where(bits > 0, tl.math.div_rn(1.0, scale), 0.0)


@triton.jit
def encode_row(values, scales, codes, peaks, items, width, factor, WIDTH: tl.constexpr):
    """One row, times a factor: int16 bits of its bfloat16 scale, int8 codes, float32 peak.

    The peak is Inf where a NaN is; the caller refuses the block where one is too large.
    """
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, WIDTH)
    places = row * width + at
    inside = (at < width) & (places < items)
    x = tl.load(values + places, mask=inside, other=0.0).to(tl.float32) * factor
    broken = tl.max((x != x).to(tl.int32), 0)
    peak = tl.where(broken > 0, float("inf"), tl.max(tl.abs(x), 0))
    fits = peak < float("inf")
    x = tl.where(fits, x, 0.0)
    bits, inverse = scale_of(tl.where(fits, peak, 0.0), INT8_TOP)
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


@triton.constexpr_function
def _doublings(size):
    return size.bit_length() - 1


@triton.jit
def _turn(x, LINES: tl.constexpr, SIZE: tl.constexpr, APART: tl.constexpr):
    """Sums and differences of the elements of lines that are so far apart."""
    pairs = tl.reshape(x, (LINES * SIZE // (2 * APART), 2, APART))
    first, second = tl.split(tl.permute(pairs, (0, 2, 1)))
    pairs = tl.permute(tl.join(first + second, first - second), (0, 2, 1))
    return tl.reshape(pairs, (LINES, SIZE))


@triton.jit
def walsh(x, LINES: tl.constexpr, SIZE: tl.constexpr):
    """The Hadamard transform of each line of `[LINES, SIZE]`, not normed; widest pairs first."""
    for turn in tl.static_range(_doublings(SIZE)):
        x = _turn(x, LINES, SIZE, SIZE >> (turn + 1))
    return x


@triton.jit
def mix(
    source,
    target,
    factors,
    lines,
    step,
    given,
    wanted,
    SIZE: tl.constexpr,
):
    """Transforms of lines of SIZE elements `step` apart: rows with 1, columns with a row's width.

    `given` elements of the source are read, the others are zeros; `wanted` of the target written.
    A line's result is times its factor, if there are any. Source and target may be the same.
    """
    LINES: tl.constexpr = TILE // SIZE
    line = tl.program_id(0).to(tl.int64) * LINES + tl.arange(0, LINES)
    start = (line // step) * (SIZE * step) + line % step
    places = start[:, None] + (tl.arange(0, SIZE) * step)[None, :]
    here = (line < lines)[:, None]
    x = tl.load(source + places, mask=here & (places < given), other=0).to(tl.float32)
    x = walsh(x, LINES, SIZE)
    if factors is not None:
        x = x * tl.load(factors + line, mask=line < lines, other=0.0)[:, None]
    x = x.to(target.dtype.element_ty)
    tl.store(target + places, x, mask=here & (places < wanted))


@triton.jit
def encode_groups(values, scales, codes, groups, items, norm, GROUPS: tl.constexpr):
    """Groups of 32 elements, mixed: bits of their scales, and two codes a byte, 8 above themselves.

    The first half of a group lies in the low nibbles.
    """
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    places = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    x = tl.load(values + places, mask=places < items, other=0.0).to(tl.float32)
    x = walsh(x, GROUPS, GROUP) * norm
    bits, inverse = scale_of(tl.max(tl.abs(x), 1), INT4_TOP)
    code = ((x * inverse[:, None] + NEAREST) - NEAREST).to(tl.int32) + 8
    low, high = tl.split(tl.permute(tl.reshape(code, (GROUPS, 2, GROUP // 2)), (0, 2, 1)))
    tl.store(scales + group, bits.to(tl.int16), mask=group < groups)
    bytes_at = group[:, None] * (GROUP // 2) + tl.arange(0, GROUP // 2)[None, :]
    tl.store(codes + bytes_at, (low | (high << 4)).to(tl.uint8), mask=(group < groups)[:, None])


@triton.jit
def decode_groups(codes, factors, values, groups, items, GROUPS: tl.constexpr):
    """What `encode_groups` wrote, mixed back, times a factor a group."""
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    here = group < groups
    bytes_at = group[:, None] * (GROUP // 2) + tl.arange(0, GROUP // 2)[None, :]
    packed = tl.load(codes + bytes_at, mask=here[:, None], other=0).to(tl.int32)
    code = tl.permute(tl.join(packed & 15, packed >> 4), (0, 2, 1))
    x = tl.reshape(code, (GROUPS, GROUP)).to(tl.float32) - 8.0
    x = walsh(x, GROUPS, GROUP) * tl.load(factors + group, mask=here, other=0.0)[:, None]
    places = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    tl.store(values + places, x.to(values.dtype.element_ty), mask=places < items)
