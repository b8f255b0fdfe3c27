"""KDA alone: ours against transformers' torch chunk and against the matrix product's peak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from prefill_kernels.kda import KdaInputs, prefill_kda
from torch import Tensor
from torch.nn import functional
from transformers.models.kimi_linear import modeling_kimi_linear

from prefill_engine.bench.timing import in_turns

HEADS, DIM, CHUNK = 8, 128, 64
GEMM = 2048


def flops_per_token_and_head(dim: int = DIM, chunk: int = CHUNK) -> int:
    """Multiplications and additions of the chunk form's matrix products, K = V = `dim`.

    Keys and queries against keys `[C, C]`, the triangular solve of `[C, K + V]` (half of a full
    product), the state read by keys and queries, scores times values, the state's update. Masked
    halves of score matrices count in full, as every implementation by tiles computes most of them.
    """
    scores = 2 * (2 * chunk * dim)
    solve = chunk * 2 * dim
    state = 3 * (2 * dim * dim)
    values = 2 * chunk * dim
    return scores + solve + state + values


@dataclass(frozen=True)
class KdaFigures:
    """Tokens per second of both sides, and the peak of a matrix product in the same run."""

    ours_tokens_per_second: float
    theirs_tokens_per_second: float
    gemm_flops_per_second: float

    @property
    def ratio(self) -> float:
        """How many times as fast as transformers' torch chunk."""
        return self.ours_tokens_per_second / self.theirs_tokens_per_second

    @property
    def gemm_peak_fraction(self) -> float:
        """The chunk form's matrix products per second over those of one large product."""
        flops = flops_per_token_and_head() * HEADS
        return self.ours_tokens_per_second * flops / self.gemm_flops_per_second


def draw(length: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """q, k, v, g `[1, T, H, K]` and beta `[1, T, H]`, float32, at the gates of a trained model."""
    random = torch.Generator().manual_seed(seed)
    q, k, v, gate = torch.randn(4, 1, length, HEADS, DIM, generator=random).unbind(0)
    q, k = functional.normalize(q, dim=-1) * DIM**-0.5, functional.normalize(k, dim=-1)
    beta = torch.rand(1, length, HEADS, generator=random)
    return q, k, v, -0.1 * functional.softplus(gate), beta


@torch.inference_mode()
def measure_kda(length: int, their_length: int, rounds: int) -> KdaFigures:
    """All threads; transformers' side runs over fewer tokens, its cost is linear in them."""
    ours, few = KdaInputs(*(x[0] for x in draw(length))), draw(their_length)
    theirs: Any = modeling_kimi_linear.chunk_kimi_delta_attention
    theirs = getattr(theirs, "__wrapped__", theirs)
    left, right, out = torch.randn(3, GEMM, GEMM).unbind(0)
    sides = (
        lambda: prefill_kda(ours),
        lambda: theirs(few[0] * DIM**0.5, few[1], few[2], few[3], few[4]),
        lambda: torch.mm(left, right, out=out),
    )
    seconds = in_turns(sides, rounds)
    speeds = length / seconds[0], their_length / seconds[1]
    return KdaFigures(*speeds, 2 * GEMM**3 / seconds[2])
