"""The published bounds of codec policies on answers; a codec that leaves its bound fails here."""

from __future__ import annotations

from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from prefill_engine.bench import codec_drift, codec_quality
from prefill_engine.bench.codec_drift import Decodes
from prefill_engine.bench.codec_quality import CodeText, Recall, divergence, quality
from prefill_kernels.pack.policy import codec_for

CHECKPOINTS = Path(str(files("prefill_engine"))) / "checkpoints"
POSITIONS, SEQUENCES = 2_048, 32
# Mean KL in nats a position, fraction of recalled answers that change.
PUBLISHED = {"exact": (0.0, 0.0), "near-lossless": (1e-6, 0.0), "compact": (1e-4, 0.005)}
# A mean KL is that of rare positions where a near tie between experts falls the other way: over
# few positions a single one more is 2e-6.
BOUNDS = {"exact": (0.0, 0.0), "near-lossless": (1e-5, 0.001), "compact": (3e-4, 0.005)}
PUBLISHED_POSITIONS = 20_480


@pytest.fixture(scope="module")
def sides():
    with pytest.MonkeyPatch.context() as patch:  # gone again before the long form asks for all
        patch.setattr(codec_quality, "SEQUENCES", SEQUENCES)
        recall = Recall(CHECKPOINTS / "mqar")
    return CodeText(CHECKPOINTS / "code-lm", POSITIONS), recall


@pytest.mark.parametrize("policy", list(BOUNDS))
def test_a_policy_stays_within_its_bounds(sides, policy):
    found = quality(*sides, partial(codec_for, policy))
    kl, changed = BOUNDS[policy]
    assert found.kl <= kl
    assert found.mqar_answers_changed_fraction <= changed
    assert found.mqar_recall >= 0.98
    assert found.top1_agreement >= 0.99


@pytest.mark.nightly
def test_policies_keep_what_is_published():
    text, recall = (
        CodeText(CHECKPOINTS / "code-lm", PUBLISHED_POSITIONS),
        Recall(CHECKPOINTS / "mqar"),
    )
    assert recall.answers.size >= 8_192
    for policy, (kl, changed) in PUBLISHED.items():
        found = quality(text, recall, partial(codec_for, policy))
        assert found.kl <= kl
        assert found.mqar_answers_changed_fraction <= changed


def test_a_decode_drifts_by_what_its_state_lost(sides, monkeypatch):
    monkeypatch.setattr(codec_drift, "STEPS", 24)
    monkeypatch.setattr(codec_drift, "SEQUENCES", 1)
    decodes = Decodes(sides[0])
    exact, near, compact = (decodes.drift(partial(codec_for, policy)) for policy in BOUNDS)
    assert (exact.kl_at_last_step, exact.state_relative_error_at_last_step) == (0.0, 0.0)
    for drift in (near, compact):
        assert 0 < drift.kl_of_last_100_steps < 1e-2
        assert drift.state_relative_error_at_last_step > 0
        assert drift.state_relative_error_at_last_step < drift.state_relative_error_arrived
    assert near.state_relative_error_arrived < 0.01 < compact.state_relative_error_arrived


def test_the_measure_sees_the_coarsest_codec(sides):
    coarse = quality(*sides, lambda part: "hadamard-int4")
    assert coarse.kl > BOUNDS["near-lossless"][0]


def test_divergence_is_that_of_the_definition():
    p, q = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.5, 0.5], [0.5, 0.5]])
    wanted = [0.0, 0.9 * np.log(1.8) + 0.1 * np.log(0.2)]
    assert np.allclose(divergence(p + 3.0, q - 1.0), wanted)
