"""The published bounds of codec policies on answers; a codec that leaves its bound fails here."""

from __future__ import annotations

from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from prefill_engine.bench import codec_quality
from prefill_engine.bench.codec_quality import CodeText, Recall, divergence, quality
from prefill_kernels.pack.policy import codec_for

CHECKPOINTS = Path(str(files("prefill_engine"))) / "checkpoints"
POSITIONS, SEQUENCES = 2_048, 32
# Mean KL in nats a position, fraction of recalled answers that change.
# A mean KL is that of rare positions where a near tie between experts falls the other way.
BOUNDS = {"exact": (0.0, 0.0), "near-lossless": (1e-5, 0.001), "compact": (3e-4, 0.005)}


@pytest.fixture(scope="module")
def sides():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec_quality, "SEQUENCES", SEQUENCES)
        yield CodeText(CHECKPOINTS / "code-lm", POSITIONS), Recall(CHECKPOINTS / "mqar")


@pytest.mark.parametrize("policy", list(BOUNDS))
def test_a_policy_stays_within_its_bounds(sides, policy):
    found = quality(*sides, partial(codec_for, policy))
    kl, changed = BOUNDS[policy]
    assert found.kl <= kl
    assert found.mqar_answers_changed_fraction <= changed
    assert found.mqar_recall >= 0.98
    assert found.top1_agreement >= 0.99


def test_the_measure_sees_the_coarsest_codec(sides):
    coarse = quality(*sides, lambda part: "hadamard-int4")
    assert coarse.kl > BOUNDS["near-lossless"][0]


def test_divergence_is_that_of_the_definition():
    p, q = np.log([[0.5, 0.5], [0.9, 0.1]]), np.log([[0.5, 0.5], [0.5, 0.5]])
    wanted = [0.0, 0.9 * np.log(1.8) + 0.1 * np.log(0.2)]
    assert np.allclose(divergence(p + 3.0, q - 1.0), wanted)
