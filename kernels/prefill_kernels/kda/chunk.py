"""KDA by chunks: every product of a chunk is a matrix product, only the state walks in order.

With `G` the running sum of `g` inside a chunk of C tokens (arXiv 2510.26692, section 3):

    A[i, j] = sum_d x_i k_j e^(G_i - G_j)          x = k for i > j, x = q for i >= j
    (I + diag(beta) A_kk) [W | U] = diag(beta) [e^G k | v]
    V' = U - W S;   O = (e^G q) S + A_qk V';   S' = diag(e^(G_C)) S + (e^(G_C - G) k)^T V'

`e^(G_i - G_j)` is split into two factors around a reference point. Around the chunk's middle both
stay finite in float32 while every exponent is below 80; we stop at 32, where products of two are
still far from the denormal numbers (ten times slower on a CPU), and halve the chunk beyond it until
each part has a reference of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

LEAF = 4  # rows of the smallest part: exponents to 2 steps from its middle
LEAF_STEP = 0.625  # strongest decay of a step there, of the limit: 20 in float32
SMALLEST_CHUNK = 16
SEGMENT_CHUNKS = 8  # chunks worked on at a time: bounds the scratch memory, reuses its pages


class _Chunks(NamedTuple):
    """What the walk over the chunks needs; leading axes `[B, H, N]` of every tensor."""

    w: Tensor  # [C, K]
    u: Tensor  # [C, V]
    q_in: Tensor  # [C, K], q e^G
    a_qk: Tensor  # [C, C], lower triangle
    k_out: Tensor  # [C, K], k e^(G_C - G)
    carry: Tensor  # [K, 1], e^(G_C)


def chunk_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    initial_state: Tensor | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Compute `naive_kda` in chunks; same arguments and results, differentiable by autograd.

    Shapes: q, k, g `[B, T, H, K]`, v `[B, T, H, V]`, beta `[B, T, H]`, states `[B, H, K, V]`, any
    `T >= 1`. float64 stays float64, everything else is computed in float32; outputs have v's
    dtype and the state the computing dtype. `chunk_size` is a power of two from 16 on.
    """
    if chunk_size < SMALLEST_CHUNK or chunk_size.bit_count() != 1:
        raise ValueError(f"chunk_size must be a power of two from 16 on, got {chunk_size}")
    out_dtype = v.dtype
    dtype = torch.float64 if v.dtype == torch.float64 else torch.float32
    batch, length, heads, key_dim = k.shape
    state_shape = (batch, heads, key_dim, v.shape[-1])
    state = torch.zeros(state_shape, dtype=dtype, device=v.device)
    if initial_state is not None:
        state = initial_state.to(dtype)
    size = min(chunk_size, max(SMALLEST_CHUNK, 1 << (length - 1).bit_length()))
    # split and unbind, not slices: the gradient of a slice is a zero-filled copy of the whole
    span = size * SEGMENT_CHUNKS
    inputs = (q, k, v, g, beta.unsqueeze(-1))
    segments = (torch.split(x.to(dtype), span, dim=1) for x in inputs)
    outputs = []
    for parts in zip(*segments, strict=True):
        chunks = _prepare(*(_to_chunks(x, size) for x in parts))
        out, state = _walk(chunks, state)
        outputs.append(out.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, : parts[0].shape[1]])
    return torch.cat(outputs, dim=1).to(out_dtype), state


def _to_chunks(x: Tensor, size: int) -> Tensor:
    """`[B, T, H, D]` to `[B, H, N, C, D]`; zero padding neither decays nor writes the state."""
    batch, length, heads, dim = x.shape
    padding = -length % size
    if padding:
        x = functional.pad(x, (0, 0, 0, 0, 0, padding))
    return x.view(batch, -1, size, heads, dim).permute(0, 3, 1, 2, 4).contiguous()


def _prepare(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> _Chunks:
    """Everything that does not depend on the state, for all chunks at once."""
    cumulative = g.cumsum(dim=-2)
    last = cumulative[..., -1:, :]
    middle = _middle(cumulative)
    if _spans_little(middle, last - middle):
        offset = cumulative - middle
        up, down = offset.exp(), (-offset).exp()  # not 1 / up: its gradient overflows beyond 44
        right = (k * down).transpose(-1, -2)
        a_kk, a_qk = (k * up) @ right, (q * up) @ right
    else:
        bounded = g.clamp_min(-LEAF_STEP * _limit(g)).cumsum(dim=-2)
        a_kk, a_qk = _halved_scores(torch.stack((k, q), dim=-2), k, bounded).unbind(-2)
    decay = _decay(cumulative)
    k_in, q_in, k_out = k * decay, q * decay, k * _decay(last - cumulative)
    upper = torch.ones(a_kk.shape[-2:], dtype=torch.bool, device=k.device).triu()
    system = a_kk.masked_fill(upper, 0.0) * beta  # the solver takes the diagonal as ones
    right = torch.cat((k_in, v), dim=-1) * beta
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    w, u = torch.split(solved, [k.shape[-1], v.shape[-1]], dim=-1)
    lower_qk = a_qk.masked_fill(upper.triu(1), 0.0)
    return _Chunks(w, u, q_in, lower_qk, k_out, _decay(last).transpose(-1, -2))


def _limit(x: Tensor) -> float:
    """Largest exponent used: e^-32 is nothing to float32, e^-240 to float64."""
    return 240.0 if x.dtype == torch.float64 else 32.0


def _decay(exponent: Tensor) -> Tensor:
    """`e^x` for x <= 0, as good as nothing at the limit."""
    return exponent.clamp_min(-_limit(exponent)).exp()


def _spans_little(*exponents: Tensor) -> bool:
    """Whether every exponent stays within the limit."""
    return all(float(x.detach().abs().max()) <= _limit(x) for x in exponents)


def _middle(cumulative: Tensor) -> Tensor:
    """The sum at the middle row, as a reference for all of them: `[..., 1, K]`."""
    return cumulative[..., cumulative.shape[-2] // 2 - 1, :].unsqueeze(-2)


def _halved_scores(both: Tensor, k: Tensor, cumulative: Tensor) -> Tensor:
    """Scores `[..., R, 2, R]` of keys and queries `[..., R, 2, K]` against keys `[..., R, K]`.

    The second half of the rows against the first takes the sum between them as its reference: both
    factors are <= 1. Each half by itself is halved again, down to LEAF rows; a step's decay is
    bounded so that these stay in range (e^-20 in float32, below the rounding of what it scales).
    """
    rows, offset = k.shape[-2], cumulative - _middle(cumulative)
    half = rows // 2
    if rows <= LEAF or _spans_little(offset):
        return _products(both, offset.exp(), k * (-offset).exp())
    early = k[..., :half, :] * _decay(-offset[..., :half, :])
    below = _products(both[..., half:, :, :], _decay(offset[..., half:, :]), early)
    axes = ((both, -3), (k, -2), (cumulative, -2))
    parts = (torch.unflatten(x, axis, (2, half)) for x, axis in axes)
    above, beside = _halved_scores(*parts).unbind(-4)
    return torch.cat((functional.pad(above, (0, half)), torch.cat((below, beside), dim=-1)), dim=-3)


def _products(both: Tensor, decay: Tensor, keys: Tensor) -> Tensor:
    """`[..., R, 2, K]`, decayed by `[..., R, K]`, times keys `[..., C, K]`: `[..., R, 2, C]`."""
    left = (both * decay.unsqueeze(-2)).flatten(-3, -2)
    return torch.unflatten(left @ keys.transpose(-1, -2), -2, (decay.shape[-2], 2))


def _walk(chunks: _Chunks, state: Tensor) -> tuple[Tensor, Tensor]:
    """Carry the state over the chunks; returns outputs `[B, H, N, C, V]` and the last state."""
    shape = state.shape
    state = state.flatten(0, 1)
    flat = _Chunks(*(x.flatten(0, 1) for x in chunks))  # [B*H, N, ...]
    readers = torch.cat((flat.w, flat.q_in), dim=-2)
    k_out = flat.k_out.transpose(-1, -2)
    steps = zip(
        *(x.unbind(1) for x in (readers, flat.u, flat.a_qk, k_out, flat.carry)), strict=True
    )
    outputs = []
    for reader, u, a_qk, k_out_t, carry in steps:
        recalled, read = torch.bmm(reader, state).chunk(2, dim=1)
        new = u - recalled
        outputs.append(torch.baddbmm(read, a_qk, new))
        state = torch.baddbmm(carry * state, k_out_t, new)
    stacked = torch.stack(outputs, dim=1)
    return torch.unflatten(stacked, 0, shape[:2]), state.view(shape)
