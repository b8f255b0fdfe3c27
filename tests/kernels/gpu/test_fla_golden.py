"""Our KDA held to what flash-linear-attention's naive forms gave on the same inputs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from prefill_kernels.kda import KdaInputs, naive_kda, prefill_kda

DEVICE = os.environ.get("PREFILL_TEST_DEVICE", "cpu")
NORMAL = 1e-6


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).with_name("fla_naive.npz"), allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def inputs(golden):
    return KdaInputs(*(golden[name] for name in KdaInputs._fields))


def by_recurrence(golden):
    rows = (tensor.double()[None] for tensor in inputs(golden))
    out, state = naive_kda(*rows, golden["state"].double())
    return out[0], state


def by_triton(golden):
    from prefill_kernels.kda.triton_chunk import triton_prefill

    here = KdaInputs(*(tensor.to(DEVICE) for tensor in inputs(golden)))
    done = triton_prefill(here, initial_states=golden["state"].to(DEVICE))
    return done.out.cpu(), done.states.cpu()


FORMS = {
    "naive": by_recurrence,
    "prefill": lambda golden: prefill_kda(inputs(golden), initial_states=golden["state"])[:2],
    "triton": by_triton,
}


def distance(value, reference):
    return float((value.double() - reference.double()).norm() / reference.double().norm())


@pytest.mark.parametrize("form", list(FORMS))
def test_every_form_agrees_with_theirs(golden, form):
    out, state = FORMS[form](golden)
    for theirs in ("recurrent", "chunk"):
        assert distance(out, golden[f"{theirs}_out"]) <= NORMAL
        assert distance(state, golden[f"{theirs}_state"]) <= NORMAL


def test_the_comparison_sees_a_missing_initial_state(golden):
    out = prefill_kda(inputs(golden)).out
    assert distance(out, golden["recurrent_out"]) > 1e-2
