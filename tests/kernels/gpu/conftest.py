"""GPU kernels: interpreted on the CPU, or, under `make test-gpu`, compiled and run on a device."""

from __future__ import annotations

import os
from importlib.util import find_spec
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from prefill_kernels.kda import KdaInputs, naive_kda
from torch import Tensor
from torch.nn import functional

os.environ.setdefault("TRITON_INTERPRET", "1")  # read once, when triton is imported
DEVICE = os.environ.get("PREFILL_TEST_DEVICE", "cpu")


class Case(NamedTuple):
    """Packed inputs, states at the starts, and where sequences begin and end."""

    inputs: KdaInputs
    states: Tensor
    starts: list[int]


def draw(starts, steepest, shape=(1, 32, 32), seed=0):
    """float32 inputs, log decays spread evenly from 0 to `-steepest`."""
    heads, K, V = shape
    random = torch.Generator().manual_seed(seed)
    length = starts[-1]
    q, k = functional.normalize(torch.randn(2, length, heads, K, generator=random), dim=-1)
    v = torch.randn(length, heads, V, generator=random)
    g = -steepest * torch.rand(length, heads, K, generator=random)
    beta = torch.rand(length, heads, generator=random)
    states = torch.randn(len(starts) - 1, heads, K, V, generator=random)
    inputs = KdaInputs(q * K**-0.5, k, v, g, beta)
    return Case(KdaInputs(*(x.to(DEVICE) for x in inputs)), states.to(DEVICE), starts)


def recurrence(case, end=None):
    """Outputs and final states by the float64 recurrence, of tokens before `end` alone."""
    outputs, states = [], []
    for number, (start, stop) in enumerate(pairwise(case.starts)):
        last = stop if end is None else min(stop, end)
        if start < last:
            rows = (x[None, start:last].double().cpu() for x in case.inputs)
            out, state = naive_kda(*rows, case.states[number : number + 1].double().cpu())
            outputs.append(out[0])
            states.append(state[0])
    return torch.cat(outputs), torch.stack(states)


def error(value, reference):
    """The norm of the difference over that of the reference."""
    assert value.isfinite().all()
    return float((value.double().cpu() - reference).norm() / reference.norm())


@pytest.fixture(autouse=True)
def runnable():
    if find_spec("triton") is None:
        pytest.skip("triton is not installed: `sh infra/triton.sh`")
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"no CUDA device: torch {torch.__version__} sees none on this machine")


@pytest.fixture
def on_device():
    """For what the interpreter cannot do."""
    if DEVICE != "cuda":
        pytest.skip("needs a CUDA device: `make test-gpu` where one is")


@pytest.fixture(name="draw")
def draw_fixture():
    return draw


@pytest.fixture(name="recurrence")
def recurrence_fixture():
    return recurrence


@pytest.fixture(name="error")
def error_fixture():
    return error
