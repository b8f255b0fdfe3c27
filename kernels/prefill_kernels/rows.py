"""Row by row work between matrix products, into the caller's buffers: native, or by torch.

Every function takes float32 CPU tensors whose last axis is contiguous.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from prefill_kernels.native import native


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor) -> Tensor:
    """`x / rms(x) * weight` over the last axis; `x` and `out` `[T, D]`, rows may be strided."""
    library = native().library
    if library is None:
        return out.copy_(F.rms_norm(x, (x.shape[-1],), weight, eps))
    rows, width = x.shape
    places = x.data_ptr(), x.stride(0), weight.data_ptr(), out.data_ptr(), out.stride(0)
    library.prefill_rms_norm(*places, rows, width, eps, torch.get_num_threads())
    return out


def swiglu(x: Tensor, out: Tensor) -> Tensor:
    """`silu(x[:, :D]) * x[:, D:]`; `x` `[T, 2 D]` and `out` `[T, D]`, both contiguous."""
    library = native().library
    if library is None:
        gate, up = x.chunk(2, dim=-1)
        return torch.mul(F.silu(gate), up, out=out)
    rows, width = out.shape
    threads = torch.get_num_threads()
    library.prefill_swiglu(x.data_ptr(), out.data_ptr(), rows, width, threads)
    return out
