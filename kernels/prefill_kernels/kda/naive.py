"""The KDA recurrence, one token at a time: slow, obvious, and the oracle of every faster form."""

from __future__ import annotations

import torch
from torch import Tensor


def naive_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run `S <- diag(e^g) S;  S <- S + k (beta (v - k^T S))^T;  o = S^T q` over T tokens.

    Source: the Kimi Linear report (arXiv 2510.26692), section 3; dtype is that of the inputs
    (float64 makes it an oracle).

    Args:
        q: queries `[B, T, H, K]`, l2-normed and already scaled by `K**-0.5`.
        k: keys `[B, T, H, K]`, l2-normed.
        v: values `[B, T, H, V]`.
        g: log decay per channel `[B, T, H, K]`, <= 0 (natural logarithm).
        beta: write strength `[B, T, H]` in (0, 1).
        initial_state: `[B, H, K, V]`, zeros when absent; never written to.

    Returns:
        Outputs `[B, T, H, V]` and the state after the last token `[B, H, K, V]`.
    """
    batch, length, heads, key_dim = k.shape
    shape = (batch, heads, key_dim, v.shape[-1])
    state = v.new_zeros(shape) if initial_state is None else initial_state.to(v)
    outputs = []
    for t in range(length):
        state = g[:, t].exp().unsqueeze(-1) * state
        recalled = torch.einsum("bhk,bhkv->bhv", k[:, t], state)
        written = beta[:, t].unsqueeze(-1) * (v[:, t] - recalled)
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, t], written)
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return torch.stack(outputs, dim=1), state
