"""The layers: KDA, MLA over a latent cache, MLP and grouped experts; one sequence at a time.

Each adds its result to the residual `x` in place; scratch comes from one `Workspace`. An attention
layer takes all normed rows into its state and may be given the residual of only the last of them:
then nothing is computed that merely the other rows' outputs need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

import torch
from prefill_kernels.attention import Expanded, Heads, attend
from prefill_kernels.kda.layer import KdaRows, KdaWeights, run_layer
from prefill_kernels.rows import combine, rms_norm, swiglu
from torch import Tensor
from torch.nn import functional as F

from prefill_engine.config import CONV_WIDTH, KV_A_NORM_EPS, ModelConfig
from prefill_engine.weights import Weights
from prefill_engine.workspace import Workspace

ABSORBED_TOKENS = 4  # up to here attention inside the latent space is cheaper than expanding it
PAST_BLOCK_TOKENS = 2048  # bounds the scratch memory of expanded keys and values


def project(x: Tensor, weight: Tensor, space: Workspace, name: str) -> Tensor:
    """`x @ weight.T` into scratch: x `[T, D]`, weight `[N, D]`."""
    return torch.mm(x, weight.T, out=space.take(name, x.shape[0], weight.shape[0]))


def _spans(count: int) -> list[tuple[int, int]]:
    """The first `count` rows of a cache, a block at a time."""
    starts = range(0, count, PAST_BLOCK_TOKENS)
    return [(at, min(at + PAST_BLOCK_TOKENS, count)) for at in starts]


class Feed(Protocol):
    """The second half of a layer: adds to the residual what it makes of the normed rows."""

    def __call__(self, inner: Tensor, x: Tensor, space: Workspace) -> None: ...


class Mlp:
    """SwiGLU."""

    def __init__(self, weights: Weights, prefix: str, hidden: int, size: int) -> None:
        gate = weights.take(f"{prefix}.gate_proj.weight", size, hidden)
        up = weights.take(f"{prefix}.up_proj.weight", size, hidden)
        self.gate_up = torch.cat([gate, up])
        self.down = weights.take(f"{prefix}.down_proj.weight", hidden, size)

    def __call__(self, inner: Tensor, x: Tensor, space: Workspace) -> None:
        both = project(inner, self.gate_up, space, "gate and up")
        active = swiglu(both, space.take("active", x.shape[0], self.down.shape[1]))
        x.addmm_(active, self.down.T)


class Experts:
    """Sigmoid-routed experts beside a shared one; tokens are sorted by expert."""

    def __init__(self, weights: Weights, prefix: str, c: ModelConfig) -> None:
        self.c = c
        size, shared = c.expert_size, c.shared_experts
        self.router = weights.take(f"{prefix}.gate.weight", c.experts, c.hidden)
        self.bias = weights.take(f"{prefix}.gate.e_score_correction_bias", c.experts)
        self.shared = Mlp(weights, f"{prefix}.shared_experts", c.hidden, size * shared)
        e = f"{prefix}.experts"
        if weights.has(f"{e}.gate_up_proj"):
            self.gate_up = weights.take(f"{e}.gate_up_proj", c.experts, 2 * size, c.hidden)
            self.down = weights.take(f"{e}.down_proj", c.experts, c.hidden, size)
            return
        n, h = range(c.experts), c.hidden
        self.gate_up = torch.stack(
            [
                torch.cat([weights.take(f"{e}.{i}.{w}.weight", size, h) for w in ("w1", "w3")])
                for i in n
            ]
        )
        self.down = torch.stack([weights.take(f"{e}.{i}.w2.weight", h, size) for i in n])

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
        if len(inner) == 1:
            self._one(inner, x, zip(chosen[0].tolist(), share[0].tolist(), strict=True), space)
            return
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        slot = torch.empty_like(order)
        slot[order] = torch.arange(len(order))
        count, size = len(order), self.down.shape[2]
        rows = space.take("expert rows", count, self.c.hidden)
        torch.index_select(inner, 0, order // self.c.experts_per_token, out=rows)
        both = space.take("gate and up", count, 2 * size)
        done = space.take("expert done", count, self.c.hidden)
        ends = torch.bincount(flat, minlength=self.c.experts).cumsum(0).tolist()
        parts = list(zip(range(self.c.experts), [0, *ends[:-1]], ends, strict=True))
        for expert, start, end in parts:
            if start < end:
                torch.mm(rows[start:end], self.gate_up[expert].T, out=both[start:end])
        active = swiglu(both, space.take("active", count, size))
        for expert, start, end in parts:
            if start < end:
                torch.mm(active[start:end], self.down[expert].T, out=done[start:end])
        combine(x, done, slot.view_as(chosen), share)

    def _one(
        self, inner: Tensor, x: Tensor, shares: Iterable[tuple[int, float]], space: Workspace
    ) -> None:
        """A single token: its experts one after another, nothing to sort."""
        active = space.take("active", 1, self.down.shape[2])
        for expert, share in shares:
            swiglu(project(inner, self.gate_up[expert], space, "gate and up"), active)
            x.addmm_(active, self.down[expert].T, alpha=share)


class Kda:
    """Kimi Delta Attention with its short convolution (FACTS: formulas of the report)."""

    def __init__(self, weights: Weights, prefix: str, c: ModelConfig) -> None:
        self.c = c
        self.wide = wide = c.kda_heads * c.kda_dim
        d, h, take = c.kda_dim, c.hidden, weights.take
        parts = [take(f"{prefix}.{n}_proj.weight", wide, h) for n in "qkv"]
        parts.append(take(f"{prefix}.b_proj.weight", c.kda_heads, h))
        parts += [take(f"{prefix}.{n}_a_proj.weight", d, h) for n in "fg"]
        self.inward = torch.cat(parts)  # one product for everything that reads the normed rows
        if weights.has(f"{prefix}.conv1d.weight"):
            conv = take(f"{prefix}.conv1d.weight", 3 * wide, CONV_WIDTH)
        else:
            conv = torch.cat([take(f"{prefix}.{n}_conv1d.weight", wide, CONV_WIDTH) for n in "qkv"])
        self.f_b = take(f"{prefix}.f_b_proj.weight", wide, d)
        self.g_b = take(f"{prefix}.g_b_proj.weight", wide, d)
        self.dt_bias = take(f"{prefix}.dt_bias", wide)
        decay = take(f"{prefix}.A_log", c.kda_heads).exp()
        norm = take(f"{prefix}.o_norm.weight", d)
        self.inside = KdaWeights(conv.T.contiguous(), decay, norm, c.eps)
        self.o = take(f"{prefix}.o_proj.weight", h, wide)

    def __call__(
        self, inner: Tensor, x: Tensor, states: tuple[Tensor, Tensor], space: Workspace
    ) -> None:
        """Advance both states in place: recurrent `[H, K, V]` and conv `[3 H K, 3]`.

        `x` is the residual of all rows or of the last ones.
        """
        recurrent, conv = states
        length, d = inner.shape[0], self.c.kda_dim
        raw = project(inner, self.inward, space, "raw")
        gate_in, out_gate_in = raw[:, -2 * d :].chunk(2, dim=-1)
        gate = space.take("gate", length, self.wide)
        torch.addmm(self.dt_bias, gate_in, self.f_b.T, out=gate)
        out_gate = project(out_gate_in, self.g_b, space, "out gate")
        history = conv.T.contiguous()
        y = space.take("mixed", length, self.wide)
        run_layer(self.inside, KdaRows(raw, gate, out_gate), history, recurrent, y)
        latest = raw[:, : 3 * self.wide]
        if length < CONV_WIDTH - 1:
            latest = torch.cat([history, latest])
        conv.copy_(latest[-(CONV_WIDTH - 1) :].T)
        x.addmm_(y[-x.shape[0] :], self.o.T)


class Mla:
    """Multi-head latent attention without rotary embedding, over a cache of latent rows."""

    def __init__(self, weights: Weights, prefix: str, c: ModelConfig) -> None:
        self.c = c
        qk = c.nope_dim + c.rope_dim
        self.heads = Heads(c.heads, c.nope_dim, c.rope_dim, c.v_dim, qk**-0.5)
        take = weights.take
        self.q = take(f"{prefix}.q_proj.weight", c.heads * qk, c.hidden)
        self.kv_a = take(f"{prefix}.kv_a_proj_with_mqa.weight", c.row, c.hidden)
        self.kv_norm = take(f"{prefix}.kv_a_layernorm.weight", c.latent)
        self.kv_b = take(f"{prefix}.kv_b_proj.weight", c.heads, c.nope_dim + c.v_dim, c.latent)
        self.o = take(f"{prefix}.o_proj.weight", c.hidden, c.heads * c.v_dim)

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
        x.addmm_(seen.flatten(1), self.o.T)

    def _absorbed(self, q: Tensor, cache: Tensor, space: Workspace) -> Tensor:
        """Attention inside the latent space: few queries over the cache as it lies."""
        c, length, seen = self.c, q.shape[0], cache.shape[0]
        inner = torch.einsum("thn,hnr->htr", q[..., : c.nope_dim], self.kv_b[:, : c.nope_dim])
        query = torch.cat([inner, q[..., c.nope_dim :].transpose(0, 1)], dim=-1).flatten(0, 1)
        parts = _spans(seen)
        scores = space.take("scores", len(query), seen)
        for first, last in parts:
            rows = self._float32(cache[first:last], space)
            torch.mm(query, rows.T, out=scores[:, first:last])
        scores = scores.mul_(self.heads.scale).view(c.heads, length, seen)
        if length > 1:
            later = torch.ones(length, seen, dtype=torch.bool).triu(seen - length + 1)
            scores.masked_fill_(later, float("-inf"))
        weights = scores.softmax(-1).flatten(0, 1)
        mixed = torch.zeros(len(query), c.latent)
        for first, last in parts:
            rows = self._float32(cache[first:last], space)
            mixed.addmm_(weights[:, first:last], rows[:, : c.latent])
        latent = mixed.view(c.heads, length, c.latent)
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
        spans = [(start, start + length), *_spans(start)]
        return [partial(self._expand, cache[first:last], space) for first, last in spans]

    def _expand(self, rows: Tensor, space: Workspace) -> Expanded:
        c, count = self.c, rows.shape[0]
        rows = self._float32(rows, space)
        weight = self.kv_b.flatten(0, 1)
        expanded = project(rows[:, : c.latent], weight, space, "expanded")
        return Expanded(expanded.view(count, *self.kv_b.shape[:2]), rows[:, c.latent :])
