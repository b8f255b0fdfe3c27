"""The codecs `hadamard-int8` and `hadamard-int4` on a GPU: byte for byte the reference's payloads.

Sums are taken pair by pair in the reference's order, so that they round alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prefill_kernels.pack import triton_kernels as kernels
from prefill_kernels.pack.element import PackError
from prefill_kernels.pack.hadamard import GROUP, MATRIX, matrix_of, norm
from prefill_kernels.pack.rows import LARGEST, TOO_LARGE, row_count
from prefill_kernels.pack.triton_rows import EXACT, check_scales, widened

TILE_ITEMS = kernels.TILE_ITEMS


def encode_hadamard_int8(values: Tensor) -> Tensor:
    """A float32 or bfloat16 tensor as a payload, uint8 on the same device; waits for the device.

    The last two axes are a matrix where `hadamard.matrix_of` takes them for one. `PackError` on
    Inf, NaN and what no scale holds.
    """
    values = _checked(values)
    k, v = matrix_of(tuple(values.shape))
    rows = row_count(values.numel(), k * v) * k
    payload = torch.empty(
        MATRIX.size + 2 * rows + rows * v, dtype=torch.uint8, device=values.device
    )
    head = bytearray(MATRIX.pack(k, v))
    payload[: MATRIX.size] = torch.frombuffer(head, dtype=torch.uint8).to(values.device)
    scales, codes = _parts(payload, rows)
    mixed = torch.empty(rows * v, device=values.device)
    mix_lines(values, mixed, (rows, v, 1))
    if k > 1:
        mix_lines(mixed, mixed, (rows // k * v, k, v))
    peaks = torch.empty(rows, device=values.device)
    with torch.cuda.device_of(values):  # type: ignore[no-untyped-call]
        kernels.encode_row[(rows,)](
            *(mixed, scales, codes, peaks, rows * v, v, float(norm(k * v))), WIDTH=v, **EXACT
        )
    check_scales(scales)
    return payload


def decode_hadamard_int8(payload: Tensor, out: Tensor) -> None:
    """Write `out`, contiguous, from a payload on the same device whose head this reads."""
    found = MATRIX.unpack(bytes(payload[: MATRIX.size].tolist()).ljust(MATRIX.size, b"\0"))
    k, v = matrix_of(tuple(out.shape))
    if found != (k, v):
        raise PackError(f"a matrix of {found[0]} x {found[1]}, expected {k} x {v}")
    rows = row_count(out.numel(), k * v) * k
    _expect(payload, MATRIX.size + 2 * rows + rows * v, out)
    scales, codes = _parts(payload, rows)
    check_scales(scales)
    factors = widened(scales) * float(norm(k * v))
    if k == 1:
        mix_lines(codes, out, (rows, v, 1), factors)
        return
    mixed = torch.empty(rows * v, device=out.device)
    mix_lines(codes, mixed, (rows, v, 1), factors)
    mix_lines(mixed, out, (rows // k * v, k, v))


def encode_hadamard_int4(values: Tensor) -> Tensor:
    """A tensor as groups of 32 elements in a line; as `encode_hadamard_int8` otherwise."""
    values = _checked(values)
    groups = row_count(values.numel(), GROUP)
    payload = torch.empty(groups * (2 + GROUP // 2), dtype=torch.uint8, device=values.device)
    scales, codes = payload[: 2 * groups].view(torch.int16), payload[2 * groups :]
    with torch.cuda.device_of(values):  # type: ignore[no-untyped-call]
        kernels.encode_groups[_grid(groups, GROUP)](
            *(values, scales, codes, groups, values.numel(), float(norm(GROUP))),
            GROUPS=TILE_ITEMS // GROUP,
            **EXACT,
        )
    return payload


def decode_hadamard_int4(payload: Tensor, out: Tensor) -> None:
    """Write `out`, contiguous, from a payload on the same device."""
    groups = row_count(out.numel(), GROUP)
    _expect(payload, groups * (2 + GROUP // 2), out)
    scales, codes = payload[: 2 * groups].view(torch.int16), payload[2 * groups :]
    check_scales(scales)
    factors = widened(scales) * float(norm(GROUP))
    with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]
        kernels.decode_groups[_grid(groups, GROUP)](
            codes, factors, out, groups, out.numel(), GROUPS=TILE_ITEMS // GROUP, **EXACT
        )


def mix_lines(
    source: Tensor, target: Tensor, lines: tuple[int, int, int], factors: Tensor | None = None
) -> None:
    """Transform `lines`: how many, of how many elements, how far apart these are."""
    count, size, step = lines
    with torch.cuda.device_of(target):  # type: ignore[no-untyped-call]
        kernels.mix[_grid(count, size)](
            *(source, target, factors, count, step, source.numel(), target.numel()),
            SIZE=size,
            **EXACT,
        )


def _grid(lines: int, size: int) -> tuple[int]:
    return (row_count(lines, TILE_ITEMS // size),)


def _checked(values: Tensor) -> Tensor:
    """The tensor, contiguous; NaN compares false."""
    if not bool(values.abs().amax().float() <= float(LARGEST)):
        raise PackError(TOO_LARGE)
    return values.contiguous()


def _parts(payload: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Scales as int16 bits and codes as int8, views into the payload."""
    end = MATRIX.size + 2 * rows
    return payload[MATRIX.size : end].view(torch.int16), payload[end:].view(torch.int8)


def _expect(payload: Tensor, wanted: int, out: Tensor) -> None:
    if payload.numel() != wanted or not out.is_contiguous():
        raise PackError(f"payload of {payload.numel()} bytes, expected {wanted}, contiguous")
