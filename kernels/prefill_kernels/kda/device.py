"""KDA where the tensors are on a GPU: asks `dispatch` who runs, and imports only that one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from prefill_kernels.dispatch import Backend, Installed, KdaRefused, Traits, choose
from prefill_kernels.kda.packed import KdaInputs, KdaResult

REMEDY = "pip install --no-deps triton==3.9.0 (with fla: 'prefill-kernels[gpu]')"


@cache
def installed() -> Installed:
    """What this process can import for a GPU; the native kernels' reason is the caller's."""
    has_triton = find_spec("triton") is not None
    interpreting = False
    if has_triton:
        from triton import knobs

        interpreting = bool(knobs.runtime.interpret)
    has_fla = has_triton and find_spec("fla") is not None
    return Installed(
        triton=None if has_triton else f"triton is not installed: {REMEDY}",
        fla=None if has_fla else f"flash-linear-attention is not installed: {REMEDY}",
        interpreting=interpreting,
    )


def traits_of(inputs: KdaInputs, ends: Sequence[int] = (), bounds: Sequence[int] = ()) -> Traits:
    """What `dispatch` wants to know of a call; `ends` are where its sequences end."""
    return Traits(
        device=inputs.v.device.type,
        dtypes=tuple(str(tensor.dtype).removeprefix("torch.") for tensor in inputs),
        key_dim=inputs.k.shape[-1],
        value_dim=inputs.v.shape[-1],
        gradients=torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs),
        inner_bounds=len(set(bounds) - set(ends)),
    )


def prefill_on_device(
    inputs: KdaInputs,
    starts: Sequence[int],
    initial_states: Tensor | None,
    bounds: Sequence[int],
    *,
    wanted: Backend | None = None,
) -> KdaResult:
    """`prefill_kda` on the tensors' device, by Triton unless fla is wanted; states are float32."""
    backend = choose(traits_of(inputs, starts[1:], bounds), installed(), wanted)
    if backend is Backend.TRITON:
        from prefill_kernels.kda.triton_chunk import triton_prefill

        return triton_prefill(inputs, starts=starts, initial_states=initial_states, bounds=bounds)
    if backend is Backend.FLA:
        from prefill_kernels.kda.fla_chunk import fla_prefill

        return fla_prefill(inputs, starts, initial_states, bounds)
    raise KdaRefused(f"{backend} runs in `prefill_kda`, which asks nobody about CPU tensors")
