"""The engine against transformers alone on random models: the same tokens and logits."""

from __future__ import annotations

import numpy as np
import pytest
from prefill_engine.random_checkpoint import write_random_checkpoint

SEEDS = range(20)
LONG_SEEDS = (2, 5)
SHORT_LENGTHS = (2, 63, 64, 65)
LONG_LENGTHS = (1000, 2049)
LONGEST = (16_384,)
LAST_LAYER_SEEDS = (6, 10, 2, 5)
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def handoff(tmp_path_factory, handoff_type):
    made = {}

    def get(seed):
        if seed not in made:
            folder = write_random_checkpoint(tmp_path_factory.mktemp("checkpoint"), seed)
            made[seed] = handoff_type(folder)
        return made[seed]

    return get


def cases():
    """Every model at the edges of a chunk, two of them long; nightly: all long, and longest."""
    yield from (pytest.param(seed, SHORT_LENGTHS) for seed in SEEDS)
    yield from (pytest.param(seed, LONG_LENGTHS) for seed in LONG_SEEDS)
    rest = (seed for seed in SEEDS if seed not in LONG_SEEDS)
    yield from (pytest.param(seed, LONG_LENGTHS, marks=pytest.mark.nightly) for seed in rest)
    yield from (pytest.param(seed, LONGEST, marks=pytest.mark.nightly) for seed in SEEDS)


@pytest.mark.parametrize(("seed", "lengths"), list(cases()))
def test_random_models_continue_as_transformers_does(handoff, seed, lengths):
    for length in lengths:
        outcome = handoff(seed).compare(handoff(seed).prompt(seed, length))
        assert outcome.exact, f"{length} tokens: {outcome}"


# The last layer is MLA in the first two and KDA in the others; experts behind one of each.
@pytest.mark.parametrize("seed", LAST_LAYER_SEEDS)
@pytest.mark.parametrize("steps", [(1,), (4,), (5,), (64, 1), (60, 5), (70, 130)])
def test_the_logits_after_a_prefill_are_transformers_own(handoff, seed, steps):
    """Only the last row goes through the last layer: its logits are those of all rows together."""
    engine = handoff(seed).producer
    tokens = handoff(seed).prompt(seed, sum(steps))
    sequence = engine.open(tokens)
    for count in steps:
        engine.step([(sequence, count)])
    logits = engine.last_logits(sequence)
    scored = engine.open(tokens)
    every = engine.score(scored, tokens)
    _, wanted = handoff(seed).oracle(tokens, 1)
    for found in (logits, every[-1]):
        assert np.abs(found - wanted[0]).max() <= TOLERANCE
    states = (engine.snapshot(handle) for handle in (sequence, scored))
    for mine, other in zip(*states, strict=True):
        assert mine.spec.key == other.spec.key
        assert np.abs(mine.array - other.array).max() <= TOLERANCE
    other_row = every[-2] if len(every) > 1 else -every[0]
    assert np.abs(other_row - wanted[0]).max() > TOLERANCE
    engine.close(sequence)
    engine.close(scored)


def test_the_comparison_notices_a_wrong_state(handoff, wrong_state):
    """A zeroed layer, a dropped chunk, a state advanced to N: each is outside the bound."""
    tokens = handoff(2).prompt(2, 300)
    assert handoff(2).compare(tokens).exact
    assert not handoff(2).compare(tokens, **wrong_state(300)).exact


@pytest.mark.parametrize("seed", LONG_SEEDS)
def test_without_native_kernels_it_is_as_exact(handoff, eager_kernels, seed):
    eager_kernels()
    for length in (2, 65, 1000):
        outcome = handoff(seed).compare(handoff(seed).prompt(seed, length))
        assert outcome.exact, f"{length} tokens: {outcome}"
