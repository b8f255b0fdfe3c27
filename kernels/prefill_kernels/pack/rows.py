"""Elements as float32 rows, and the 16-bit scales of rows: what the lossy codecs share.

A row is the last axis where that is 32 to 65,536 wide, else 64 elements in a line; a scale is a
bfloat16 rounded up, so that no quotient exceeds the code's range. A payload says the width of its
rows, and a decoder takes no other than its target's: where the scales lie is not the sender's
choice.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from prefill_kernels.pack.element import ElementType, PackError

SHORT_ROW, LINE = 32, 64
WIDEST = 1 << 16
WIDTH = struct.Struct("<I")  # heads a payload of rows
TINY = np.float32(1e-30)  # rows below this are zeros: their scale's inverse would overflow
LARGEST = np.float32(1e30)  # beyond any state; keeps sums of products finite
TOO_LARGE = f"the block holds Inf, NaN or more than {LARGEST}; send it by a lossless codec"
BF16_ROUNDING = 2.0**-8  # a bfloat16's rounding error is below this part of its value


def widened(block: np.ndarray, element: ElementType) -> np.ndarray:
    """The elements as a flat float32 array; refuses Inf and NaN, which no scale can hold."""
    if block.dtype != np.dtype(element.numpy_name) or not block.flags.c_contiguous:
        raise PackError(f"array is {block.dtype.str}, strides {block.strides}, for {element.name}")
    flat = block.reshape(-1)
    if element is ElementType.BFLOAT16:
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    if not within(flat):
        raise PackError(TOO_LARGE)
    return flat


def narrowed(values: np.ndarray, element: ElementType, out: np.ndarray) -> None:
    """Write float32 values into `out`, rounded to nearest even for bfloat16."""
    if out.dtype != np.dtype(element.numpy_name) or not out.flags.c_contiguous:
        raise PackError(f"array is {out.dtype.str}, strides {out.strides}, for {element.name}")
    flat = values.reshape(-1)
    out.reshape(-1)[...] = to_bf16(flat) if element is ElementType.BFLOAT16 else flat


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Nearest bfloat16 of finite float32 values, as uint16."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(values: np.ndarray) -> np.ndarray:
    """float32 of bfloat16 bits."""
    return (values.astype(np.uint32) << 16).view(np.float32)


def row_width(block: np.ndarray) -> int:
    """Elements of a block, or of the target of a decode, that share a scale."""
    return width_of(block.shape)


def width_of(shape: Sequence[int]) -> int:
    """The same, of an array of this shape."""
    width = shape[-1] if shape else 1
    return width if SHORT_ROW <= width <= WIDEST else LINE


def row_count(items: int, width: int) -> int:
    """Rows of `width` that hold `items`; the last may be short."""
    return -(-items // width)


def as_rows(flat: np.ndarray, width: int) -> np.ndarray:
    """`[rows, width]`, zeros after the last element."""
    missing = -len(flat) % width
    padded = np.concatenate([flat, np.zeros(missing, np.float32)]) if missing else flat
    return padded.reshape(-1, width)


def scales(rows: np.ndarray, top: float) -> tuple[np.ndarray, np.ndarray]:
    """Scales `[rows]` as bfloat16 bits and their float32 inverses; 0 for rows of zeros."""
    peaks = np.abs(rows).max(axis=1)
    bits = rounded_up(peaks / np.float32(top), peaks)
    return bits, inverses(bits)


def rounded_up(steps: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """bfloat16 bits not below these float32 steps; 0 where a row's largest element is tiny."""
    up = ((steps.astype(np.float32).view(np.uint32) + 0xFFFF) >> 16).astype(np.uint16)
    up[peaks < TINY] = 0
    return up


def inverses(bits: np.ndarray) -> np.ndarray:
    """float32 inverses of scales, 0 of 0."""
    scale = from_bf16(bits)
    return np.asarray(np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0))


def read_scales(view: memoryview) -> np.ndarray:
    """float32 scales from a payload; negative, undefined and too large ones are refused."""
    bits = np.frombuffer(view, "<u2")
    scale = from_bf16(bits)
    if (bits >> 15).any() or not within(scale):
        raise PackError(f"a scale is negative, undefined or above {LARGEST}")
    return scale


def within(values: np.ndarray) -> bool:
    """Whether all of these are numbers that a decoder takes: an encoder asks of what it wrote."""
    return bool((np.abs(values) <= LARGEST).all())  # NaN compares false


def rounding_of_output(peak: float, element: ElementType) -> float:
    """Largest error of writing values up to `peak` as this element."""
    return peak * BF16_ROUNDING if element is ElementType.BFLOAT16 else 0.0


def bound(worst: float, scale: np.ndarray, peak: float, element: ElementType) -> float:
    """Largest error of codes that are off by up to `worst` of their rows' scales, bfloat16 bits.

    `peak` is the largest |element|. A row without a scale is off by its elements, all below TINY.
    """
    step = float(from_bf16(scale).max(initial=0.0))
    return max(worst * step + rounding_of_output(peak, element), min(peak, float(TINY)))


def read_width(payload: bytes, head_bytes: int, out: np.ndarray) -> int:
    """The width that heads a payload, held to that of the target's rows."""
    if len(payload) < head_bytes:
        raise PackError(f"payload of {len(payload)} bytes, its head alone has {head_bytes}")
    width, wanted = int(WIDTH.unpack_from(payload)[0]), row_width(out)
    if width != wanted:
        raise PackError(f"rows of {width} elements, expected {wanted}")
    return width


def split_rows(payload: bytes, out: np.ndarray) -> tuple[int, np.ndarray, memoryview]:
    """Width, scales and one byte of code an item of `out`; every size is checked first."""
    width = read_width(payload, WIDTH.size, out)
    rows = row_count(out.size, width)
    expect(len(payload), WIDTH.size + 2 * rows + out.size)
    view = memoryview(payload)[WIDTH.size :]
    return width, read_scales(view[: 2 * rows]), view[2 * rows :]


def expect(found: int, wanted: int) -> None:
    """Refuse a payload of another size than its head and the target make."""
    if found != wanted:
        raise PackError(f"payload of {found} bytes, expected {wanted}")


def measured(largest: float, decoded_peak: float, element: ElementType) -> float:
    """A bound from the largest error found: writing it down, other orders of sums included."""
    return 1.001 * largest + 1e-6 * decoded_peak + rounding_of_output(decoded_peak, element)
