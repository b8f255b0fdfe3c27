"""The few queries that attend inside the latent space: what they see, and the scratch they take."""

from __future__ import annotations

import math

import pytest
import torch
from prefill_engine import layers
from prefill_engine.engine import StepEngine
from prefill_engine.layers import Mla
from prefill_engine.random_checkpoint import write_random_checkpoint
from prefill_engine.workspace import Workspace
from torch.utils._python_dispatch import TorchDispatchMode

BLOCK_TOKENS = 16
DTYPES = (torch.float32, torch.bfloat16)
LENGTHS = (4_096, 65_536)


@pytest.fixture(scope="module")
def mla(tmp_path_factory):
    folder = write_random_checkpoint(tmp_path_factory.mktemp("checkpoint"), 2)
    attention = StepEngine.load(folder).model.attention
    return next(layer for layer in attention if isinstance(layer, Mla))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(layers, "PAST_BLOCK_TOKENS", BLOCK_TOKENS)
    monkeypatch.setattr(layers, "LATENT_BLOCK_FLOATS", 0)


def inputs(mla, length, seen, dtype, seed=0):
    random = torch.Generator().manual_seed(seed)
    c = mla.c
    q = torch.randn(length, c.heads, c.nope_dim + c.rope_dim, generator=random)
    return q, torch.randn(seen, c.row, generator=random).to(dtype)


def plain(mla, q, cache):
    """Softmax over every row that a query sees, over expanded keys and values in float64."""
    c, rows, length = mla.c, cache.double(), q.shape[0]
    expanded = torch.einsum("sr,hnr->shn", rows[:, : c.latent], mla.kv_b.double())
    shared = rows[:, None, c.latent :].expand(-1, c.heads, -1)
    keys = torch.cat([expanded[..., : c.nope_dim], shared], -1)
    scores = torch.einsum("thd,shd->hts", q.double(), keys) * mla.heads.scale
    later = torch.ones(length, len(rows), dtype=torch.bool).triu(len(rows) - length + 1)
    weights = scores.masked_fill(later, -math.inf).softmax(-1)
    return torch.einsum("hts,shv->thv", weights, expanded[..., c.nope_dim :])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("seen", [4, 15, 16, 17, 18, 19, 33, 200])
@torch.inference_mode()
def test_attention_over_blocks_is_attention(mla, small_blocks, seen, length, dtype):
    q, cache = inputs(mla, length, seen, dtype)
    wanted = plain(mla, q, cache)
    got = mla._absorbed(q, cache, Workspace())
    assert (got - wanted).abs().max() <= 2e-6 * wanted.abs().max()
    cache[0] = 0
    assert (got - plain(mla, q, cache)).abs().max() > 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("where", [0, 20, 199])
@torch.inference_mode()
def test_scores_far_apart_are_joined_without_overflow(mla, small_blocks, where):
    q, cache = inputs(mla, 1, 200, torch.float32)
    cache[where] *= 1_000  # whichever block it lies in, its scores are hundreds from the others'
    wanted = plain(mla, q, cache)
    got = mla._absorbed(q, cache, Workspace())
    assert got.isfinite().all()
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


class Allocations(TorchDispatchMode):
    """The largest memory that any operation's result lies in, `known` tensors' left out."""

    def __init__(self, *known):
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.largest_bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            storage = result.untyped_storage()
            if storage.data_ptr() not in self.known:
                self.largest_bytes = max(self.largest_bytes, storage.nbytes())
        return result


def memory_of(mla, length, seen, dtype):
    """Scratch that one call leaves, and its largest result, in bytes."""
    q, cache = inputs(mla, length, seen, dtype)
    space = Workspace()
    with torch.no_grad(), Allocations(q, cache, mla.kv_b) as seen_by:
        mla._absorbed(q, cache, space)
    return space.nbytes, seen_by.largest_bytes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 3])
def test_scratch_does_not_grow_with_the_prefix(mla, monkeypatch, length, dtype):
    monkeypatch.setattr(layers, "LATENT_BLOCK_FLOATS", 0)  # nor is a longer block a longer prefix
    short, long = (memory_of(mla, length, seen, dtype) for seen in LENGTHS)
    assert short == long
    assert long[1] > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_block_over_all_of_it_is_noticed(mla, monkeypatch, dtype):
    """The twin: scores of the whole prefix at once."""
    monkeypatch.setattr(layers, "PAST_BLOCK_TOKENS", LENGTHS[-1])
    short, long = (memory_of(mla, 1, seen, dtype) for seen in LENGTHS)
    assert all(grown > 10 * held for held, grown in zip(short, long, strict=True))
