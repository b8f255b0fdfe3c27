"""A whole KDA layer between its projections: convolution, norms, gates, KDA, output norm and gate.

Fused natively, because by torch these ten passes over memory cost as much as KDA itself.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from prefill_kernels.kda.fast import prefill_kda
from prefill_kernels.kda.packed import KdaInputs
from prefill_kernels.native import native
from prefill_kernels.native.library import KdaLayer

TAPS = 4  # width of the short convolution
L2_EPS = 1e-6
NATIVE_DIM = 16  # the fused form takes head sizes that are multiples of this


@dataclass(frozen=True)
class KdaWeights:
    """A layer's own: conv `[4, 3 H K]`, decay `[H]` (e^A_log), norm `[K]` and its eps."""

    conv: Tensor
    decay: Tensor
    norm: Tensor
    eps: float

    @property
    def heads(self) -> int:
        """H."""
        return self.decay.shape[0]

    @property
    def dim(self) -> int:
        """K, which is V."""
        return self.norm.shape[0]


@dataclass(frozen=True)
class KdaRows:
    """A step's projections: raw `[T, >= 3 H K + H]` (q|k|v, then beta's logits), gates `[T, H K]`.

    `gate` is the decay's, dt_bias included, before softplus; `out_gate` before the sigmoid.
    """

    raw: Tensor
    gate: Tensor
    out_gate: Tensor


def run_layer(
    weights: KdaWeights,
    rows: KdaRows,
    history: Tensor,
    state: Tensor,
    out: Tensor,
) -> Tensor:
    """Advance `state` `[H, K, K]` in place; `out` `[T, H K]` is what the output projection takes.

    `history` `[3, 3 H K]` are the raw rows before this step; the caller moves it on.
    """
    library = native().library
    if library is None or weights.dim % NATIVE_DIM:
        return _eager(weights, rows, history, state, out)
    held = (rows.raw, history, weights.conv, rows.gate, rows.out_gate, weights.decay, weights.norm)
    places = [tensor.data_ptr() for tensor in (*held, out, state)]
    beta_column = 3 * weights.heads * weights.dim
    sizes = (out.shape[0], rows.raw.stride(0), beta_column, 0, weights.heads, weights.dim)
    call = KdaLayer(*places, None, None, *sizes, torch.get_num_threads(), weights.eps)
    library.prefill_kda_layer(ctypes.byref(call))
    return out


def _eager(
    weights: KdaWeights, rows: KdaRows, history: Tensor, state: Tensor, out: Tensor
) -> Tensor:
    length, heads, dim = out.shape[0], weights.heads, weights.dim
    wide, shape = heads * dim, (length, heads, dim)
    raw = torch.cat([history, rows.raw[:, : 3 * wide]])
    mixed = raw[:length] * weights.conv[0]
    for tap in range(1, TAPS):
        mixed.addcmul_(raw[tap : tap + length], weights.conv[tap])
    q, k, v = (part.reshape(shape) for part in F.silu(mixed).chunk(3, dim=-1))
    q = q * (torch.rsqrt(q.square().sum(-1, keepdim=True) + L2_EPS) * dim**-0.5)
    k = k * torch.rsqrt(k.square().sum(-1, keepdim=True) + L2_EPS)
    g = F.softplus(rows.gate.view(shape)) * -weights.decay[:, None]
    beta = rows.raw[:, 3 * wide : 3 * wide + heads].sigmoid()
    done = prefill_kda(KdaInputs(q, k, v, g, beta), initial_states=state[None])
    state.copy_(done.states[0])
    y = F.rms_norm(done.out, (dim,), weights.norm, weights.eps)
    return torch.mul(y.flatten(1), rows.out_gate.sigmoid(), out=out)
