"""KDA by our Triton kernels: prefill of packed sequences, and a decode step in place.

Runs where the tensors are: on a CUDA device, or on the CPU under `TRITON_INTERPRET=1`, which proves
float32 arithmetic and bounds of memory, and nothing about speed, races or other types.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prefill_kernels.kda import triton_kernels as kernels
from prefill_kernels.kda.packed import KdaInputs, KdaResult, check_cuts
from prefill_kernels.kda.triton_plan import CHUNK_TOKENS, Run, cut, runs

SCRATCH_BYTES = 1 << 30  # of one run; a head's chunk of K = V = 128 takes 164 KiB
NARROW = 16  # the least side of a tile that a GPU multiplies
COLUMNS = 64  # columns of K and V that a program solves
# Columns of a state that a program carries. What ptxas says for sm_90: in tf32 with K <= 128,
# 32 fit the registers; with more operands or rows, 32 spill hundreds of bytes and 16 at most 48.
STATE_COLUMNS, FEWER_COLUMNS = 32, 16
WALK_STAGES = 1  # with two, a walk's tiles need 248 KiB of shared memory, and there are 227
FUSED = {"enable_fp_fusion": True}  # products and sums in one rounding, said as Triton 3.9 asks


def triton_prefill(
    inputs: KdaInputs,
    *,
    starts: Sequence[int] | None = None,
    initial_states: Tensor | None = None,
    bounds: Sequence[int] = (),
    precision: str | None = None,
    scratch_bytes: int = SCRATCH_BYTES,
) -> KdaResult:
    """Run `prefill_kda`'s contract; states are float32, outputs have v's type.

    Args:
        inputs: float32 or bfloat16 (g and beta may stay float32), any strides of tokens and heads.
        starts: see `prefill_kda`.
        initial_states: float32 `[N, H, K, V]`, never written to.
        bounds: see `prefill_kda`.
        precision: of matrix products: "ieee" (what float32 means, off the tensor cores),
            "tf32x3" (three products of 10 bits for one of 21, the default for float32 inputs) or
            "tf32" (10 bits, the default for bfloat16 inputs, which have 7).
        scratch_bytes: what the kernels may hold at a time besides inputs and results.
    """
    length, heads, key_dim = inputs.k.shape
    value_dim = inputs.v.shape[-1]
    starts = [0, length] if starts is None else list(starts)
    check_cuts(starts, length, bounds)
    inputs = KdaInputs(*(_last_adjacent(tensor) for tensor in inputs))
    device = inputs.v.device
    shape = (heads, key_dim, value_dim)
    if initial_states is None:
        states = torch.zeros(len(starts) - 1, *shape, device=device)
    else:
        states = initial_states.to(torch.float32, copy=True).contiguous()
    out = torch.empty_like(inputs.v, memory_format=torch.contiguous_format)
    result = KdaResult(out, states, torch.empty(len(bounds), *shape, device=device))
    chunk_bytes = 4 * CHUNK_TOKENS * heads * (2 * CHUNK_TOKENS + 3 * key_dim + value_dim)
    precision = precision or ("tf32" if inputs.k.dtype == torch.bfloat16 else "tf32x3")
    with torch.cuda.device_of(inputs.v):  # type: ignore[no-untyped-call]
        for run in runs(*cut(starts, bounds), max(1, scratch_bytes // chunk_bytes)):
            _launch(inputs, run, result, precision)
    return result


def triton_step(inputs: KdaInputs, states: Tensor) -> Tensor:
    """One token of each sequence: `inputs` `[N, H, ..]`, `states` float32 `[N, H, K, V]` in place.

    Returns outputs `[N, H, V]` of v's type.
    """
    count, heads, key_dim = inputs.k.shape
    value_dim = inputs.v.shape[-1]
    wanted = (count, heads, key_dim, value_dim)
    if states.shape != wanted or states.dtype != torch.float32 or states.stride(-1) != 1:
        raise ValueError(
            f"states are {states.dtype} {tuple(states.shape)} of strides {states.stride()}, "
            f"needs float32 {wanted} with adjacent values, because they are updated in place"
        )
    inputs = KdaInputs(*(_last_adjacent(tensor) for tensor in inputs))
    out = torch.empty_like(inputs.v, memory_format=torch.contiguous_format)
    columns = min(STATE_COLUMNS, padded(value_dim))
    grid = (-(-value_dim // columns), heads, count)
    results = kernels.Results(_rows(out), _states(states), _states(states))
    with torch.cuda.device_of(inputs.v):  # type: ignore[no-untyped-call]
        kernels.step[grid](
            _tokens(inputs),
            results,
            kernels.Sizes(key_dim, value_dim),
            KP=padded(key_dim),
            WIDTH=columns,
            **FUSED,
        )
    return out


def padded(size: int) -> int:
    """The power of two that holds `size`, at least 16."""
    return max(NARROW, 1 << (size - 1).bit_length())


def _launch(inputs: KdaInputs, run: Run, result: KdaResult, precision: str) -> None:
    device, count = inputs.v.device, len(run.chunks)
    heads, K = inputs.k.shape[1:]
    V = inputs.v.shape[-1]
    KP, VP = padded(K), padded(V)
    scratch = _scratch((count, heads), KP, VP, device)
    chunks = torch.tensor(run.chunks, dtype=torch.int64, device=device)
    walks = torch.tensor(run.walks, dtype=torch.int64, device=device)
    tokens = _tokens(inputs)
    results = kernels.Results(
        _rows(result.out), _states(result.states), _states(result.bound_states)
    )
    of_keys, of_values = min(COLUMNS, KP), min(COLUMNS, VP)
    light = precision == "tf32" and KP <= 2 * COLUMNS
    of_state = min(STATE_COLUMNS if light else FEWER_COLUMNS, VP)
    kernels.score_parts[(4 * count, heads)](tokens, scratch, chunks, K, KP=KP, PRECISION=precision)
    kernels.solve_keys[(count, heads, KP // of_keys)](
        tokens, scratch, chunks, K, KP=KP, WIDTH=of_keys, PRECISION=precision, **FUSED
    )
    kernels.solve_values[(count, heads, VP // of_values)](
        tokens, scratch, chunks, V, VP=VP, WIDTH=of_values, PRECISION=precision, **FUSED
    )
    kernels.walk[(VP // of_state, heads, len(run.walks))](
        scratch,
        kernels.Tables(chunks, walks),
        results,
        kernels.Sizes(K, V),
        KP=KP,
        VP=VP,
        WIDTH=of_state,
        PRECISION=precision,
        num_stages=WALK_STAGES,
        **FUSED,
    )


def _scratch(outer: tuple[int, int], KP: int, VP: int, device: torch.device) -> kernels.Scratch:
    """Uninitialised: the kernels write what they read."""
    C = CHUNK_TOKENS
    shapes = ((C, C), (C, C), (C, KP), (C, KP), (C, KP), (KP,), (C, VP))
    return kernels.Scratch(*(torch.empty(*outer, *shape, device=device) for shape in shapes))


def _last_adjacent(tensor: Tensor) -> Tensor:
    """Tokens and heads may lie anywhere; a head's elements lie side by side."""
    return tensor if tensor.ndim == 2 or tensor.stride(-1) == 1 else tensor.contiguous()


def _tokens(inputs: KdaInputs) -> kernels.Tokens:
    return kernels.Tokens(*(_rows(tensor) for tensor in inputs))


def _rows(tensor: Tensor) -> kernels.Rows:
    return kernels.Rows(tensor, tensor.stride(0), tensor.stride(1))


def _states(tensor: Tensor) -> kernels.States:
    return kernels.States(tensor, *tensor.stride()[:3])
