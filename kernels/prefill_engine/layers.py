"""The layers: KDA, MLA over a latent cache, MLP and grouped experts; one sequence at a time."""

from __future__ import annotations

from typing import Protocol

import torch
from prefill_kernels.kda import chunk_kda
from torch import Tensor
from torch.nn import functional as F

from prefill_engine.config import CONV_WIDTH, KV_A_NORM_EPS, ModelConfig
from prefill_engine.weights import Weights

ABSORBED_TOKENS = 4  # up to here attention inside the latent space is cheaper than expanding it
PAST_BLOCK_TOKENS = 8192  # bounds the scratch memory of expanded keys and values


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last axis."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


class Feed(Protocol):
    """The second half of a layer: `[T, hidden]` to the same."""

    def __call__(self, x: Tensor) -> Tensor: ...


class Mlp:
    """SwiGLU."""

    def __init__(self, weights: Weights, prefix: str, hidden: int, size: int) -> None:
        gate = weights.take(f"{prefix}.gate_proj.weight", size, hidden)
        up = weights.take(f"{prefix}.up_proj.weight", size, hidden)
        self.gate_up = torch.cat([gate, up])
        self.down = weights.take(f"{prefix}.down_proj.weight", hidden, size)

    def __call__(self, x: Tensor) -> Tensor:
        gate, up = F.linear(x, self.gate_up).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, self.down)


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
        c = self.c
        scores = F.linear(x, self.router).sigmoid()
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

    def __call__(self, x: Tensor) -> Tensor:
        chosen, share = self._route(x)
        order = chosen.flatten().argsort(stable=True)
        token = order // self.c.experts_per_token
        rows, scale = x[token], share.flatten()[order, None]
        counts = torch.bincount(chosen.flatten(), minlength=self.c.experts).tolist()
        out, at = self.shared(x), 0
        for i, count in enumerate(counts):
            if count:
                part = slice(at, at + count)
                gate, up = F.linear(rows[part], self.gate_up[i]).chunk(2, dim=-1)
                done = F.linear(F.silu(gate) * up, self.down[i]) * scale[part]
                out.index_add_(0, token[part], done)
                at += count
        return out


class Kda:
    """Kimi Delta Attention with its short convolution (FACTS: formulas of the report)."""

    def __init__(self, weights: Weights, prefix: str, c: ModelConfig) -> None:
        self.c = c
        wide, d, h = c.kda_heads * c.kda_dim, c.kda_dim, c.hidden
        take = weights.take
        self.qkv = torch.cat([take(f"{prefix}.{n}_proj.weight", wide, h) for n in "qkv"])
        if weights.has(f"{prefix}.conv1d.weight"):
            conv = take(f"{prefix}.conv1d.weight", 3 * wide, CONV_WIDTH)
        else:
            conv = torch.cat([take(f"{prefix}.{n}_conv1d.weight", wide, CONV_WIDTH) for n in "qkv"])
        self.conv = conv.T.contiguous()
        self.f_a = take(f"{prefix}.f_a_proj.weight", d, h)
        self.f_b = take(f"{prefix}.f_b_proj.weight", wide, d)
        self.g_a = take(f"{prefix}.g_a_proj.weight", d, h)
        self.g_b = take(f"{prefix}.g_b_proj.weight", wide, d)
        self.b = take(f"{prefix}.b_proj.weight", c.kda_heads, h)
        self.decay = take(f"{prefix}.A_log", c.kda_heads, 1).exp()
        self.dt_bias = take(f"{prefix}.dt_bias", wide)
        self.o_norm = take(f"{prefix}.o_norm.weight", d)
        self.o = take(f"{prefix}.o_proj.weight", h, wide)

    def __call__(self, x: Tensor, recurrent: Tensor, conv: Tensor) -> Tensor:
        """Advance both states in place: recurrent `[H, K, V]`, conv `[C, 3]`; x `[T, hidden]`."""
        length, heads = x.shape[0], (x.shape[0], self.c.kda_heads, self.c.kda_dim)
        raw = torch.cat([conv.T, F.linear(x, self.qkv)])
        mixed = raw[:length] * self.conv[0]
        for j in range(1, CONV_WIDTH):
            mixed.addcmul_(raw[j : j + length], self.conv[j])
        conv.copy_(raw[length:].T)
        q, k, v = (part.reshape(heads) for part in F.silu(mixed).chunk(3, dim=-1))
        q = q * (torch.rsqrt(q.square().sum(-1, keepdim=True) + 1e-6) * self.c.kda_dim**-0.5)
        k = k * torch.rsqrt(k.square().sum(-1, keepdim=True) + 1e-6)
        gate = F.linear(F.linear(x, self.f_a), self.f_b, self.dt_bias).view(heads)
        g = F.softplus(gate) * -self.decay
        beta = F.linear(x, self.b).sigmoid()
        parts = (y[None] for y in (q, k, v, g, beta))
        out, state = chunk_kda(*parts, initial_state=recurrent[None])
        recurrent.copy_(state[0])
        shown = F.linear(F.linear(x, self.g_a), self.g_b).view(heads).sigmoid()
        y = rms_norm(out[0], self.o_norm, self.c.eps) * shown
        return F.linear(y.flatten(1), self.o)


class Mla:
    """Multi-head latent attention without rotary embedding, over a cache of latent rows."""

    def __init__(self, weights: Weights, prefix: str, c: ModelConfig) -> None:
        self.c = c
        self.qk = c.nope_dim + c.rope_dim
        self.scale = self.qk**-0.5
        take = weights.take
        self.q = take(f"{prefix}.q_proj.weight", c.heads * self.qk, c.hidden)
        self.kv_a = take(f"{prefix}.kv_a_proj_with_mqa.weight", c.row, c.hidden)
        self.kv_norm = take(f"{prefix}.kv_a_layernorm.weight", c.latent)
        self.kv_b = take(f"{prefix}.kv_b_proj.weight", c.heads, c.nope_dim + c.v_dim, c.latent)
        self.o = take(f"{prefix}.o_proj.weight", c.hidden, c.heads * c.v_dim)

    def __call__(self, x: Tensor, cache: Tensor, start: int) -> Tensor:
        """Write rows from `start` on into the cache `[capacity, row]`, attend to all before."""
        c, length = self.c, x.shape[0]
        q = F.linear(x, self.q).view(length, c.heads, self.qk)
        row = F.linear(x, self.kv_a)
        latent = rms_norm(row[:, : c.latent], self.kv_norm, KV_A_NORM_EPS)
        cache[start : start + length, : c.latent] = latent
        cache[start : start + length, c.latent :] = row[:, c.latent :]
        attend = self._absorbed if length <= ABSORBED_TOKENS else self._expanded
        return F.linear(attend(q, cache, start).flatten(1), self.o)

    def _absorbed(self, q: Tensor, cache: Tensor, start: int) -> Tensor:
        c, length = self.c, q.shape[0]
        rows = cache[: start + length].float()
        inner = torch.einsum("thn,hnr->htr", q[..., : c.nope_dim], self.kv_b[:, : c.nope_dim])
        query = torch.cat([inner, q[..., c.nope_dim :].transpose(0, 1)], dim=-1)
        scores = query @ rows.T * self.scale
        later = torch.ones(length, start + length, dtype=torch.bool).triu(start + 1)
        seen = scores.masked_fill(later, float("-inf")).softmax(-1) @ rows[:, : c.latent]
        return torch.einsum("htr,hvr->thv", seen, self.kv_b[:, c.nope_dim :])

    def _expand(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values `[1, H, T, D]`, both of one width so that SDPA keeps its fast path."""
        c, rows = self.c, rows.float()
        both = F.linear(rows[:, : c.latent], self.kv_b.flatten(0, 1))
        both = both.view(-1, c.heads, c.nope_dim + c.v_dim).transpose(0, 1)
        width = max(self.qk, c.v_dim)
        key = rows.new_zeros(1, c.heads, rows.shape[0], width)
        value = rows.new_zeros(1, c.heads, rows.shape[0], width)
        key[0, :, :, : c.nope_dim] = both[..., : c.nope_dim]
        key[0, :, :, c.nope_dim : self.qk] = rows[:, c.latent :]
        value[0, :, :, : c.v_dim] = both[..., c.nope_dim :]
        return key, value

    def _expanded(self, q: Tensor, cache: Tensor, start: int) -> Tensor:
        c, length = self.c, q.shape[0]
        query = F.pad(q.transpose(0, 1)[None], (0, max(0, c.v_dim - self.qk)))
        sdpa = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        key, value = self._expand(cache[start : start + length])
        out, lse = sdpa(query, key, value, 0.0, True, scale=self.scale)
        for at in range(0, start, PAST_BLOCK_TOKENS):
            key, value = self._expand(cache[at : min(at + PAST_BLOCK_TOKENS, start)])
            past, past_lse = sdpa(query, key, value, 0.0, False, scale=self.scale)
            both = torch.logaddexp(lse, past_lse)
            out = out * (lse - both).exp()[..., None] + past * (past_lse - both).exp()[..., None]
            lse = both
        return torch.as_tensor(out[0, :, :, : c.v_dim].transpose(0, 1))
