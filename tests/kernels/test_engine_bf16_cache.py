"""Profile `bf16-cache`: latent rows are rounded as they are written, and read back rounded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from prefill_engine.engine import StepEngine
from prefill_engine.random_checkpoint import write_random_checkpoint
from prefill_wire.tensors import TensorKind
from transformers.cache_utils import DynamicCache

LENGTHS = (2, 64, 65, 1_000)


@contextmanager
def rounded_cache() -> Iterator[None]:
    """transformers with its latent rows rounded to bf16 as they enter the cache."""
    original = DynamicCache.update

    def update(self: Any, keys: Any, values: Any, *rest: Any, **named: Any) -> Any:
        rounded = (x.to(torch.bfloat16).float() for x in (keys, values))
        return original(self, *rounded, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DynamicCache, "update", update)
        yield


@pytest.fixture(scope="module")
def handoff(tmp_path_factory, handoff_type):
    folder = write_random_checkpoint(tmp_path_factory.mktemp("checkpoint"), 2)
    return handoff_type(folder, "bf16-cache")


def latent_of(state):
    return {key: a for key, a in state.items() if key[1] is TensorKind.LATENT_KV}


def oracle_latent(handoff, tokens):
    """The oracle's latent rows over N-1 tokens, bf16 as uint16, by layer."""
    cache = handoff.fresh_cache()
    with torch.inference_mode():
        handoff.model(torch.from_numpy(tokens[:-1])[None], past_key_values=cache, use_cache=True)
    rows = {}
    for layer, _ in latent_of(handoff.prefill(tokens, len(tokens) - 1)):
        kept = cache.layers[layer]
        row = torch.cat([kept.keys[0, 0], kept.values[0, 0]], dim=-1).to(torch.bfloat16)
        rows[layer] = row.view(torch.uint16).numpy()
    return rows


@pytest.mark.parametrize("length", LENGTHS)
def test_logits_are_those_of_an_oracle_that_rounds_too(handoff, length):
    tokens = handoff.prompt(4, length)
    with rounded_cache():
        assert handoff.compare(tokens).largest <= 2e-3  # a value at a rounding edge may flip
    assert handoff.compare(tokens).largest > 2e-3  # the twin: an oracle that does not round


@pytest.mark.parametrize("length", LENGTHS)
def test_the_rows_are_the_oracles_to_a_rounding_edge(handoff, length):
    tokens = handoff.prompt(5, length)
    state = latent_of(handoff.prefill(tokens, length - 1))
    with rounded_cache():
        wanted = oracle_latent(handoff, tokens)
    for (layer, _), rows in state.items():
        apart = np.abs(rows.astype(np.int32) - wanted[layer].astype(np.int32))
        assert apart.max() <= 1
        assert (apart > 0).mean() < 0.01


def test_a_handoff_and_an_own_continuation_are_the_same_to_the_bit(handoff):
    engine = StepEngine.load(handoff.folder, profile="bf16-cache")
    tokens = handoff.prompt(6, 90)
    sequence = engine.open(tokens)
    pieces = engine.prefill(sequence, 89)
    latent = [p for p in pieces if p.spec.kind is TensorKind.LATENT_KV]
    assert {p.array.dtype for p in latent} == {np.dtype(np.uint16)}
    moved = engine.load_state(89, {p.spec.key: p.array for p in pieces}, 91)
    continued = engine.decode_step(moved, int(tokens[-1]))
    engine.step([(sequence, 1)])
    assert np.array_equal(continued, engine.last_logits(sequence))
