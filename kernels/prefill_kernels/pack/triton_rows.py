"""The codec `int8-row` on a GPU: the payload is byte for byte what the numpy reference writes."""

from __future__ import annotations

import torch
from torch import Tensor

from prefill_kernels.pack import triton_kernels as kernels
from prefill_kernels.pack.element import PackError
from prefill_kernels.pack.rows import LARGEST, TOO_LARGE, WIDTH, row_count, width_of

EXACT = {"enable_fp_fusion": False}  # a fused product would round codes otherwise than numpy


def encode_int8_rows(values: Tensor) -> Tensor:
    """A float32 or bfloat16 tensor as a payload, uint8 on the same device; waits for the device.

    Rows are those of `rows.width_of`. `PackError` on Inf, NaN and what no scale holds.
    """
    values = values.contiguous()
    width = width_of(values.shape)
    items, rows = values.numel(), row_count(values.numel(), width)
    payload = torch.empty(WIDTH.size + 2 * rows + items, dtype=torch.uint8, device=values.device)
    head = bytearray(WIDTH.pack(width))
    payload[: WIDTH.size] = torch.frombuffer(head, dtype=torch.uint8).to(values.device)
    scales, codes = _parts(payload, rows)
    peaks = torch.empty(rows, device=values.device)
    with torch.cuda.device_of(values):  # type: ignore[no-untyped-call]
        kernels.encode_row[(rows,)](
            *(values, scales, codes, peaks, items, width, 1.0), WIDTH=_padded(width), **EXACT
        )
    if not bool((peaks <= float(LARGEST)).all()):
        raise PackError(TOO_LARGE)
    return payload


def decode_int8_rows(payload: Tensor, out: Tensor) -> None:
    """Write `out`, contiguous, from a payload on the same device whose head this reads."""
    found = int.from_bytes(bytes(payload[: WIDTH.size].tolist()), "little")
    width = width_of(out.shape)
    if found != width:
        raise PackError(f"rows of {found} elements, expected {width}")
    rows = row_count(out.numel(), width)
    wanted = WIDTH.size + 2 * rows + out.numel()
    if payload.numel() != wanted or not out.is_contiguous():
        raise PackError(f"payload of {payload.numel()} bytes, expected {wanted}, contiguous")
    scales, codes = _parts(payload, rows)
    check_scales(scales)
    with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]
        kernels.decode_row[(rows,)](
            codes, scales, out, out.numel(), width, WIDTH=_padded(width), **EXACT
        )


def _parts(payload: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Scales as int16 bits and codes as int8, views into the payload."""
    end = WIDTH.size + 2 * rows
    return payload[WIDTH.size : end].view(torch.int16), payload[end:].view(torch.int8)


def check_scales(scales: Tensor) -> None:
    """`PackError` unless a decoder takes these bits of bfloat16s; waits for the device."""
    if bool((scales < 0).any()) or not bool((widened(scales) <= float(LARGEST)).all()):
        raise PackError(f"a scale is negative, undefined or above {LARGEST}")


def widened(scales: Tensor) -> Tensor:
    """float32 of scales as int16 bits."""
    return scales.view(torch.bfloat16).float()


def _padded(width: int) -> int:
    return 1 << (width - 1).bit_length()
