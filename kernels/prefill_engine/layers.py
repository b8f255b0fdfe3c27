"""The layers: KDA, MLA over a latent cache, MLP and grouped experts; one sequence at a time.

Each adds its result to the residual `x` in place; scratch comes from one `Workspace`. An attention
layer takes all normed rows into its state and may be given the residual of only the last of them:
then nothing is computed that merely the other rows' outputs need.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Protocol

import torch
from prefill_kernels.attention import Expanded, Heads, attend, attend_latent
from prefill_kernels.kda.layer import KdaRows, KdaWeights, run_layer
from prefill_kernels.products import (
    Factor,
    Routes,
    add_product,
    add_rows,
    multiply,
    multiply_rows,
)
from prefill_kernels.rows import rms_norm, swiglu
from torch import Tensor
from torch.nn import functional as F

from prefill_engine.config import CONV_WIDTH, KV_A_NORM_EPS, ModelConfig
from prefill_engine.weights import Weights
from prefill_engine.workspace import Workspace

ABSORBED_TOKENS = 4  # up to here attention inside the latent space is cheaper than expanding it
PAST_BLOCK_TOKENS = 2048  # bounds the scratch memory of expanded keys and values
LATENT_BLOCK_FLOATS = 3 << 18  # 3 MiB of rows as they lie are still cached when they are read again
FEED_BLOCK_TOKENS = 512  # what lies between the two products of an MLP stays in the cache


def project(x: Tensor, factor: Factor, space: Workspace, name: str) -> Tensor:
    """`x @ weight.T` into scratch: x `[T, K]`."""
    return multiply(x, factor, space.take(name, x.shape[0], factor.columns))


def _spans(count: int, step: int) -> list[tuple[int, int]]:
    """The first `count` rows of a cache, at most `step` at a time."""
    return [(at, min(at + step, count)) for at in range(0, count, step)]


class Feed(Protocol):
    """The second half of a layer: adds to the residual what it makes of the normed rows."""

    def __call__(self, inner: Tensor, x: Tensor, space: Workspace) -> None: ...


class Mlp:
    """SwiGLU."""

    def __init__(self, weights: Weights, prefix: str, hidden: int, size: int) -> None:
        gate = weights.take(f"{prefix}.gate_proj.weight", size, hidden)
        up = weights.take(f"{prefix}.up_proj.weight", size, hidden)
        self.gate_up = Factor.of(torch.cat([gate, up]))
        self.down = Factor.of(weights.take(f"{prefix}.down_proj.weight", hidden, size))

    def __call__(self, inner: Tensor, x: Tensor, space: Workspace) -> None:
        for first in range(0, x.shape[0], FEED_BLOCK_TOKENS):
            rows, residual = (t[first : first + FEED_BLOCK_TOKENS] for t in (inner, x))
            both = project(rows, self.gate_up, space, "gate and up")
            active = swiglu(both, space.take("active", rows.shape[0], self.down.inner))
            add_product(active, self.down, residual)


class Experts:
    """Sigmoid-routed experts beside a shared one; tokens are sorted by expert."""

    def __init__(self, weights: Weights, prefix: str, c: ModelConfig) -> None:
        self.c = c
        size, shared = c.expert_size, c.shared_experts
        self.first = torch.zeros(1, dtype=torch.int64)
        self.router = weights.take(f"{prefix}.gate.weight", c.experts, c.hidden)
        self.bias = weights.take(f"{prefix}.gate.e_score_correction_bias", c.experts)
        self.shared = Mlp(weights, f"{prefix}.shared_experts", c.hidden, size * shared)
        e = f"{prefix}.experts"
        h, up, down = c.hidden, [], []
        if weights.has(f"{e}.gate_up_proj"):
            up = list(weights.take(f"{e}.gate_up_proj", c.experts, 2 * size, h))
            down = list(weights.take(f"{e}.down_proj", c.experts, h, size))
        for i in range(c.experts - len(up)):
            parts = [weights.take(f"{e}.{i}.{w}.weight", size, h) for w in ("w1", "w3")]
            up.append(torch.cat(parts))
            down.append(weights.take(f"{e}.{i}.w2.weight", h, size))
        self.gate_up, self.down = [Factor.of(w) for w in up], [Factor.of(w) for w in down]

    def _route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Chosen experts and their shares, both `[T, experts_per_token]`."""
        c = self.c
        scores = F.linear(x, self.router).sigmoid_()
        choice = scores + self.bias
        if c.groups > 1:
            grouped = choice.view(-1, c.groups, c.experts // c.groups)
            best = grouped.topk(2, dim=-1)[0].sum(-1).topk(c.top_groups, dim=-1)[1]
            kept = torch.zeros(x.shape[0], c.groups, dtype=torch.bool).scatter_(1, best, True)
            choice = grouped.masked_fill(~kept[..., None], float("-inf")).flatten(1)
        chosen = choice.topk(c.experts_per_token, dim=-1)[1]
        share = scores.gather(1, chosen)
        if c.renormalize:
            share = share / (share.sum(-1, keepdim=True) + 1e-20)
        return chosen, share * c.routed_scale

    def __call__(self, inner: Tensor, x: Tensor, space: Workspace) -> None:
        self.shared(inner, x, space)
        chosen, share = self._route(inner)
        if len(inner) == 1:  # nothing to sort
            for expert, part in zip(chosen[0].tolist(), share.unbind(1), strict=True):
                self._add(expert, Routes(self.first, part), (inner, x), space)
            return
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        tokens, shares = order // self.c.experts_per_token, share.flatten()[order]
        ends = torch.bincount(flat, minlength=self.c.experts).cumsum(0).tolist()
        for expert, (start, end) in enumerate(pairwise([0, *ends])):
            if start < end:
                routes = Routes(tokens[start:end], shares[start:end])
                self._add(expert, routes, (inner, x), space)

    def _add(
        self, expert: int, routes: Routes, rows: tuple[Tensor, Tensor], space: Workspace
    ) -> None:
        """What one expert makes of its rows of `rows[0]`, added to the same of `rows[1]`."""
        inner, x = rows
        count, up, down = routes.rows.shape[0], self.gate_up[expert], self.down[expert]
        both = multiply_rows(inner, routes, up, space.take("gate and up", count, up.columns))
        add_rows(swiglu(both, space.take("active", count, down.inner)), routes, down, x)


class Kda:
    """Kimi Delta Attention with its short convolution (arXiv 2510.26692)."""

    def __init__(self, weights: Weights, prefix: str, c: ModelConfig) -> None:
        self.c = c
        self.wide = wide = c.kda_heads * c.kda_dim
        d, h, take = c.kda_dim, c.hidden, weights.take
        parts = [take(f"{prefix}.{n}_proj.weight", wide, h) for n in "qkv"]
        parts.append(take(f"{prefix}.b_proj.weight", c.kda_heads, h))
        parts += [take(f"{prefix}.{n}_a_proj.weight", d, h) for n in "fg"]
        self.inward = Factor.of(
            torch.cat(parts)
        )  # one product for everything that reads the normed rows
        if weights.has(f"{prefix}.conv1d.weight"):
            conv = take(f"{prefix}.conv1d.weight", 3 * wide, CONV_WIDTH)
        else:
            conv = torch.cat([take(f"{prefix}.{n}_conv1d.weight", wide, CONV_WIDTH) for n in "qkv"])
        self.f_b = Factor.of(take(f"{prefix}.f_b_proj.weight", wide, d))
        self.g_b = Factor.of(take(f"{prefix}.g_b_proj.weight", wide, d))
        self.dt_bias = take(f"{prefix}.dt_bias", wide)
        decay = take(f"{prefix}.A_log", c.kda_heads).exp()
        norm = take(f"{prefix}.o_norm.weight", d)
        self.inside = KdaWeights(conv.T.contiguous(), decay, norm, c.eps)
        self.o = Factor.of(take(f"{prefix}.o_proj.weight", h, wide))

    def __call__(
        self, inner: Tensor, x: Tensor, states: tuple[Tensor, Tensor], space: Workspace
    ) -> None:
        """Advance both states in place: recurrent `[H, K, V]` and conv `[3 H K, 3]`.

        `x` is the residual of all rows or of the last ones.
        """
        recurrent, conv = states
        length, d = inner.shape[0], self.c.kda_dim
        raw = project(inner, self.inward, space, "raw")
        gate_in, out_gate_in = raw[:, -2 * d : -d], raw[:, -d:]
        gate = space.take("gate", length, self.wide)
        multiply(gate_in, self.f_b, gate, bias=self.dt_bias)
        out_gate = project(out_gate_in, self.g_b, space, "out gate")
        history = conv.T.contiguous()
        y = space.take("mixed", length, self.wide)
        run_layer(self.inside, KdaRows(raw, gate, out_gate), history, recurrent, y)
        latest = raw[:, : 3 * self.wide]
        if length < CONV_WIDTH - 1:
            latest = torch.cat([history, latest])
        conv.copy_(latest[-(CONV_WIDTH - 1) :].T)
        add_product(y[-x.shape[0] :], self.o, x)


class Mla:
    """Multi-head latent attention without rotary embedding, over a cache of latent rows."""

    def __init__(self, weights: Weights, prefix: str, c: ModelConfig) -> None:
        self.c = c
        qk = c.nope_dim + c.rope_dim
        self.heads = Heads(c.heads, c.nope_dim, c.rope_dim, c.v_dim, qk**-0.5)
        take = weights.take
        self.q = Factor.of(take(f"{prefix}.q_proj.weight", c.heads * qk, c.hidden))
        self.kv_a = Factor.of(take(f"{prefix}.kv_a_proj_with_mqa.weight", c.row, c.hidden))
        self.kv_norm = take(f"{prefix}.kv_a_layernorm.weight", c.latent)
        self.kv_b = take(f"{prefix}.kv_b_proj.weight", c.heads, c.nope_dim + c.v_dim, c.latent)
        self.expand = Factor.of(self.kv_b.flatten(0, 1))
        self.o = Factor.of(take(f"{prefix}.o_proj.weight", c.hidden, c.heads * c.v_dim))

    def __call__(
        self, inner: Tensor, x: Tensor, cache: Tensor, start: int, space: Workspace
    ) -> None:
        """Write rows from `start` on into the cache `[capacity, row]`, attend to all before.

        `x` is the residual of all rows, or of the last ones where these are few.
        """
        c, length, wanted = self.c, inner.shape[0], x.shape[0]
        row = project(inner, self.kv_a, space, "raw")
        latent = space.take("latent", length, c.latent)
        rms_norm(row[:, : c.latent], self.kv_norm, KV_A_NORM_EPS, latent)
        end = start + length
        cache[start:end, : c.latent] = latent
        cache[start:end, c.latent :] = row[:, c.latent :]
        q = project(inner[-wanted:], self.q, space, "queries").view(wanted, c.heads, -1)
        if wanted <= ABSORBED_TOKENS:
            seen = self._absorbed(q, cache[:end], space)
        else:
            out = space.take("mixed", length, c.heads, c.v_dim)
            seen = attend(q, self.heads, self._blocks(cache, start, length, space), space.take, out)
        add_product(seen.flatten(1), self.o, x)

    def _absorbed(self, q: Tensor, cache: Tensor, space: Workspace) -> Tensor:
        """Attention inside the latent space: few queries over the cache as it lies."""
        c, length, seen = self.c, q.shape[0], cache.shape[0]
        inner = torch.einsum("thn,hnr->htr", q[..., : c.nope_dim], self.kv_b[:, : c.nope_dim])
        query = torch.cat([inner, q[..., c.nope_dim :].transpose(0, 1)], dim=-1)
        # fewer blocks are fewer calls; rows to be copied gain nothing by it
        many = LATENT_BLOCK_FLOATS // (PAST_BLOCK_TOKENS * c.row)
        many = max(1, many) if cache.dtype == torch.float32 else 1
        parts = _spans(seen, many * PAST_BLOCK_TOKENS)
        blocks = [partial(self._float32, cache[first:last], space) for first, last in parts]
        out = space.take("latent mixed", c.heads * length, c.latent)
        attend_latent(query.mul_(self.heads.scale), blocks, seen, out, space.take)
        latent = out.view(c.heads, length, c.latent)
        return torch.einsum("htr,hvr->thv", latent, self.kv_b[:, c.nope_dim :])

    def _float32(self, rows: Tensor, space: Workspace) -> Tensor:
        """A block of the cache to compute with; a rounded one is copied into scratch."""
        if rows.dtype == torch.float32:
            return rows
        return space.take("cache rows", *rows.shape).copy_(rows)

    def _blocks(
        self, cache: Tensor, start: int, length: int, space: Workspace
    ) -> list[Callable[[], Expanded]]:
        """The step's own rows first, then the rows before them, a block at a time."""
        spans = [(start, start + length), *_spans(start, PAST_BLOCK_TOKENS)]
        return [partial(self._expand, cache[first:last], space) for first, last in spans]

    def _expand(self, rows: Tensor, space: Workspace) -> Expanded:
        c, count = self.c, rows.shape[0]
        rows = self._float32(rows, space)
        expanded = project(rows[:, : c.latent], self.expand, space, "expanded")
        return Expanded(expanded.view(count, *self.kv_b.shape[:2]), rows[:, c.latent :])
