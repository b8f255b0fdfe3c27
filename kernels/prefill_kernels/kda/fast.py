"""KDA for inference: packed sequences, carried states, states at boundaries; native or eager."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from prefill_kernels.dispatch import Backend, Installed, verdict
from prefill_kernels.kda.chunk import chunk_kda
from prefill_kernels.kda.device import prefill_on_device, traits_of
from prefill_kernels.kda.packed import KdaInputs, KdaResult, check_cuts
from prefill_kernels.native import native
from prefill_kernels.native.library import KdaCall


def refusal(inputs: KdaInputs) -> str | None:
    """Why the native kernel does not take these, or None."""
    here = Installed(native=native().reason if native().library is None else None)
    return verdict(Backend.NATIVE, traits_of(inputs), here).reason or None


def prefill_kda(
    inputs: KdaInputs,
    *,
    starts: Sequence[int] | None = None,
    initial_states: Tensor | None = None,
    bounds: Sequence[int] = (),
) -> KdaResult:
    """Run KDA over sequences packed one after another; on a GPU by `dispatch`, states in float32.

    Args:
        inputs: the tokens of all sequences.
        starts: where each begins, and the end of the last: `N + 1` ascending positions from 0
            to T (fla's `cu_seqlens`); one sequence when absent.
        initial_states: `[N, H, K, V]`, zeros when absent; never written to.
        bounds: ascending token positions in 1..T; the state after that many packed tokens of
            the sequence it falls in is returned too.
    """
    length, heads, key_dim = inputs.k.shape
    starts = [0, length] if starts is None else list(starts)
    check_cuts(starts, length, bounds)
    if inputs.v.is_cuda:
        return prefill_on_device(inputs, starts, initial_states, bounds)
    shape = (len(starts) - 1, heads, key_dim, inputs.v.shape[-1])
    states = inputs.v.new_zeros(shape) if initial_states is None else initial_states.clone()
    at_bounds = inputs.v.new_zeros((len(bounds), *shape[1:]))
    out = torch.empty_like(inputs.v, memory_format=torch.contiguous_format)
    run = _eager if refusal(inputs) else _native
    run(inputs, (starts, list(bounds)), KdaResult(out, states.contiguous(), at_bounds))
    return KdaResult(out, states, at_bounds)


def _native(inputs: KdaInputs, cuts: tuple[list[int], list[int]], result: KdaResult) -> None:
    tensors = [tensor.contiguous() for tensor in inputs]
    starts, bounds = (torch.tensor(places, dtype=torch.int64) for places in cuts)
    held = (*tensors, result.out, result.states, starts, bounds, result.bound_states)
    heads, key_dim = inputs.k.shape[1:]
    sizes = (heads, key_dim, inputs.v.shape[-1], torch.get_num_threads())
    call = KdaCall(*(t.data_ptr() for t in held), len(starts) - 1, len(bounds), *sizes)
    native().library.prefill_kda_call(ctypes.byref(call))


def _eager(inputs: KdaInputs, cuts: tuple[list[int], list[int]], result: KdaResult) -> None:
    starts, bounds = cuts
    for number, (start, end) in enumerate(pairwise(starts)):
        state = result.states[number : number + 1]
        stops = sorted({bound for bound in bounds if start < bound < end} | {start, end})
        for first, last in pairwise(stops):
            rows = (tensor[None, first:last] for tensor in inputs)
            part, state = chunk_kda(*rows, initial_state=state)
            result.out[first:last] = part[0]
            if last in bounds:
                result.bound_states[bounds.index(last)] = state[0]
        result.states[number] = state[0]
