"""Products by a weight that is packed when it is loaded: native, or by torch.

Tensors are float32 on the CPU, their last axis contiguous; rows may be strided.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from prefill_kernels.native import native
from prefill_kernels.native.library import ProductCall

PANEL = 16


@dataclass(frozen=True)
class Factor:
    """A weight `[N, K]`; where there are native kernels, in panels `[N / 16, K, 16]` instead."""

    held: Tensor
    columns: int

    @classmethod
    def of(cls, weight: Tensor) -> Factor:
        """Take over a weight `[N, K]`; packing copies it."""
        columns, inner = weight.shape
        if native().library is None:
            return cls(weight, columns)
        panels = torch.zeros(-(-columns // PANEL), PANEL, inner)
        panels.flatten(0, 1)[:columns] = weight
        return cls(panels.transpose(1, 2).contiguous(), columns)

    @cached_property
    def inner(self) -> int:
        """K."""
        return self.held.shape[1]

    @cached_property
    def packed(self) -> bool:
        """Whether it lies in panels."""
        return self.held.dim() == 3

    @cached_property
    def address(self) -> int:
        """Where it lies, for as long as it is held."""
        return self.held.data_ptr()

    @property
    def weight(self) -> Tensor:
        """`[N, K]`: as it was given, or unpacked."""
        if not self.packed:
            return self.held
        return self.held.transpose(1, 2).flatten(0, 1)[: self.columns]


@dataclass(frozen=True)
class Routes:
    """Rows that meet this factor: `rows` int64 `[T]`; `share` `[T]` is what each counts for."""

    rows: Tensor
    share: Tensor


def multiply(x: Tensor, factor: Factor, out: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """`out = x @ weight.T (+ bias)`: x `[T, K]`, out `[T, N]`, bias `[N]`."""
    if native().library is None or not factor.packed:
        if bias is None:
            return torch.mm(x, factor.weight.T, out=out)
        return torch.addmm(bias, x, factor.weight.T, out=out)
    return _call(x, factor, out, bias=bias)


def multiply_rows(x: Tensor, routes: Routes, factor: Factor, out: Tensor) -> Tensor:
    """`out = x[rows] @ weight.T`: x `[.., K]`, out `[T, N]`."""
    if native().library is None or not factor.packed:
        return torch.mm(x[routes.rows], factor.weight.T, out=out)
    return _call(x, factor, out, take=routes.rows)


def add_product(x: Tensor, factor: Factor, out: Tensor) -> Tensor:
    """`out += x @ weight.T`."""
    if native().library is None or not factor.packed:
        return out.addmm_(x, factor.weight.T)
    return _call(x, factor, out, add=True)


def add_rows(x: Tensor, routes: Routes, factor: Factor, out: Tensor) -> Tensor:
    """`out[rows] += share * (x @ weight.T)`: x `[T, K]`; no row stands twice in `rows`."""
    if native().library is None or not factor.packed:
        return out.index_add_(0, routes.rows, x @ factor.weight.T * routes.share[:, None])
    return _call(x, factor, out, put=routes, add=True)


def _call(
    x: Tensor,
    factor: Factor,
    out: Tensor,
    *,
    bias: Tensor | None = None,
    take: Tensor | None = None,
    put: Routes | None = None,
    add: bool = False,
) -> Tensor:
    count = out.shape[0] if put is None else put.rows.shape[0]
    rows, share = (None, None) if put is None else (put.rows, put.share)
    call = ProductCall(
        *(x.data_ptr(), factor.address, _place(bias), _place(share), _place(take), _place(rows)),
        *(out.data_ptr(), x.stride(0), out.stride(0), count, factor.inner, factor.columns),
        *(add, torch.get_num_threads()),
    )
    native().library.prefill_product(ctypes.byref(call))
    return out


def _place(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
