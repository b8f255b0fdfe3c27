"""KDA by flash-linear-attention's `chunk_kda`: a second backend, and a second opinion on a GPU.

fla is imported when it is called and never before: once `fla` is importable, transformers binds its
Triton kernels, which need a GPU. Its contract is narrower than ours: states come out at the ends of
sequences, and those inside are bfloat16, so bounds inside a sequence are refused by `dispatch`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prefill_kernels.kda.packed import KdaInputs, KdaResult


def fla_prefill(
    inputs: KdaInputs,
    starts: Sequence[int],
    initial_states: Tensor | None,
    bounds: Sequence[int],
) -> KdaResult:
    """`prefill_kda` where every bound is the end of a sequence; states are float32."""
    from fla.ops.kda import chunk_kda

    with torch.inference_mode():
        out, states = chunk_kda(
            *(tensor[None] for tensor in inputs),
            scale=1.0,  # q comes scaled
            initial_state=None if initial_states is None else initial_states.float().contiguous(),
            output_final_state=True,
            cu_seqlens=torch.tensor(starts, dtype=torch.int64, device=inputs.v.device),
        )
    ending = {end: number for number, end in enumerate(starts[1:])}
    asked = [ending[bound] for bound in bounds]
    return KdaResult(out[0], states, states[asked])
