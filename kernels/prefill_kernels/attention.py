"""Causal softmax attention over a latent cache, block by block: expanded, or as it lies."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from prefill_kernels.native import native
from prefill_kernels.native.library import AttentionCall

QUERY_BLOCK, KEY_BLOCK, LANES = 64, 128, 16
Take = Callable[..., Tensor]


@dataclass(frozen=True)
class Heads:
    """Sizes of a head: keys are nope + rope wide, values `value`; scores are times `scale`."""

    count: int
    nope: int
    rope: int
    value: int
    scale: float

    @property
    def key(self) -> int:
        """Width of a key or query."""
        return self.nope + self.rope


@dataclass(frozen=True)
class Expanded:
    """A block of the cache: rows `[n, H, nope + value]`, contiguous, and `[n, rope]`, shared."""

    rows: Tensor
    rope: Tensor


def attend(
    q: Tensor, heads: Heads, blocks: Sequence[Callable[[], Expanded]], take: Take, out: Tensor
) -> Tensor:
    """Attention of queries `[T, H, key]` (rows may be strided) over all blocks: `[T, H, value]`.

    The first block holds the step's own tokens, in order, and is causal; the others are seen
    whole. Each is made when it is needed and done with before the next. `take(name, *shape)`
    lends scratch tensors that nothing else uses meanwhile.
    """
    run = _eager if native().library is None else _native
    return run(q, heads, blocks, take, out)


def _up(count: int, step: int) -> int:
    return -(-count // step) * step


def _native(
    q: Tensor, heads: Heads, blocks: Sequence[Callable[[], Expanded]], take: Take, out: Tensor
) -> Tensor:
    length, value = q.shape[0], _up(heads.value, LANES)
    running = take("attention running", heads.count * _up(length, QUERY_BLOCK) * (value + 2))
    for number, make in enumerate(blocks):
        block = make()
        keys = block.rows.shape[0]
        packed = take("attention packed", heads.count * (heads.key + value) * _up(keys, KEY_BLOCK))
        held = (q, block.rows, block.rope, packed, running, out)
        call = AttentionCall(
            *(tensor.data_ptr() for tensor in held),
            *(length, q.stride(0), keys, block.rope.stride(0), heads.count),
            *(heads.nope, heads.rope, heads.value, torch.get_num_threads()),
            *(number == 0, number == len(blocks) - 1, number == 0),
            heads.scale,
        )
        native().library.prefill_attention(ctypes.byref(call))
    return out


def _eager(
    q: Tensor, heads: Heads, blocks: Sequence[Callable[[], Expanded]], take: Take, out: Tensor
) -> Tensor:
    width = max(heads.key, heads.value)  # one width for all: SDPA keeps its fast path
    query = F.pad(q.transpose(0, 1)[None], (0, width - heads.key))
    sdpa = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    merged, lse = out, torch.empty(0)
    for number, make in enumerate(blocks):
        key, value = _wide(make(), heads, take, width)
        part, part_lse = sdpa(query, key, value, 0.0, number == 0, scale=heads.scale)
        if number == 0:
            merged, lse = part, part_lse
            continue
        both = torch.logaddexp(lse, part_lse)
        merged = merged * (lse - both).exp()[..., None]
        merged = merged + part * (part_lse - both).exp()[..., None]
        lse = both
    return out.copy_(merged[0, :, :, : heads.value].transpose(0, 1))


def _wide(block: Expanded, heads: Heads, take: Take, width: int) -> tuple[Tensor, Tensor]:
    count = block.rows.shape[0]
    rows = block.rows.transpose(0, 1)
    key = take("attention keys", 1, heads.count, count, width).zero_()
    value = take("attention values", 1, heads.count, count, width).zero_()
    key[0, :, :, : heads.nope] = rows[..., : heads.nope]
    key[0, :, :, heads.nope : heads.key] = block.rope
    value[0, :, :, : heads.value] = rows[..., heads.nope :]
    return key, value


def attend_latent(
    query: Tensor, blocks: Sequence[Callable[[], Tensor]], seen: int, out: Tensor, take: Take
) -> Tensor:
    """Attention of scaled queries `[H, T, R]` over latent rows as they lie: `out` `[H T, D]`.

    The blocks' rows `[n, R]`, `seen` in all, are the keys of every head, their first D columns the
    values; the last T rows are the queries' own, and a query sees none after its own. Scratch, lent
    by `take`, is that of one block: a running maximum and sum join them.
    """
    length, flat, width, last = query.shape[1], query.flatten(0, 1), out.shape[1], 0
    best = total = torch.empty(0)
    for make in blocks:
        rows = make()
        first, last = last, last + len(rows)
        scores = torch.mm(flat, rows.T, out=take("scores", len(flat), len(rows)))
        if last > seen - length + 1:
            later = torch.ones(length, len(rows), dtype=torch.bool).triu(seen - length + 1 - first)
            scores.view(-1, length, len(rows)).masked_fill_(later, -math.inf)
        if len(blocks) == 1:  # nothing to join
            weights = torch.softmax(scores, -1, out=take("weights", *scores.shape))
            return torch.mm(weights, rows[:, :width], out=out)
        peak = scores.amax(-1, keepdim=True)
        if first:
            torch.maximum(best, peak, out=peak)
            faded = best.sub_(peak).exp_()
            total.mul_(faded)
            out.mul_(faded)
        else:  # finite from here on: every query sees the first row
            total = torch.zeros_like(peak)
            out.zero_()
        best, weights = peak, scores.sub_(peak).exp_()
        total.add_(weights.sum(-1, keepdim=True))
        out.addmm_(weights, rows[:, :width])
    return out.div_(total)
