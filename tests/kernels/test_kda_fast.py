"""KDA as inference runs it, natively and eagerly: errors, packing, carried and boundary states."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from prefill_kernels.kda import KdaInputs, naive_kda, prefill_kda
from prefill_kernels.kda.fast import refusal
from prefill_kernels.kda.layer import KdaRows, KdaWeights, run_layer
from prefill_kernels.native import native
from torch.nn import functional

LENGTHS = (1, 2, 16, 17, 63, 64, 65, 1_000)
SHAPES = ((2, 128, 128), (3, 24, 40))  # heads, K, V
NORMAL, EXTREME = 1e-6, 5e-6
GATES = {0.1: NORMAL, 1.0: NORMAL, 8.0: EXTREME, 40.0: EXTREME}  # steepest decay a step: bound


@pytest.fixture(params=["native", "eager"])
def form(request, eager_kernels):
    if request.param == "eager":
        eager_kernels()
    elif native().library is None:
        pytest.skip(f"no native kernels: {native().reason}")
    return request.param


def draw(length, steepest, shape=SHAPES[0], seed=0):
    """Packed float32 inputs and a state, log decays spread evenly from 0 to `-steepest`."""
    heads, key_dim, value_dim = shape
    random = torch.Generator().manual_seed(seed)
    q = functional.normalize(torch.randn(length, heads, key_dim, generator=random), dim=-1)
    k = functional.normalize(torch.randn(length, heads, key_dim, generator=random), dim=-1)
    v = torch.randn(length, heads, value_dim, generator=random)
    g = -steepest * torch.rand(length, heads, key_dim, generator=random)
    beta = torch.rand(length, heads, generator=random)
    state = torch.randn(1, heads, key_dim, value_dim, generator=random)
    return KdaInputs(q * key_dim**-0.5, k, v, g, beta), state


def rows(inputs, start, end):
    return KdaInputs(*(tensor[start:end] for tensor in inputs))


def oracle(inputs, state):
    out, last = naive_kda(*(tensor.double()[None] for tensor in inputs), state.double())
    return out[0], last


def error(value, reference):
    return float((value.double() - reference).norm() / reference.norm())


@pytest.mark.parametrize("steepest", list(GATES))
@pytest.mark.parametrize("length", LENGTHS)
def test_it_is_the_recurrence_to_the_bound(form, length, steepest):
    for shape in SHAPES:
        inputs, state = draw(length, steepest, shape)
        done = prefill_kda(inputs, initial_states=state)
        wanted, last = oracle(inputs, state)
        assert done.out.isfinite().all()
        assert done.states.isfinite().all()
        bound = GATES[steepest] * (4 if form == "eager" and steepest == 40 else 1)
        assert error(done.out, wanted) <= bound
        assert error(done.states, last) <= bound


def test_the_bound_sees_a_gate_that_is_off_by_a_hundred_thousandth(form):
    inputs, state = draw(65, 1.0)
    wanted, _ = oracle(inputs, state)
    off = prefill_kda(inputs._replace(g=inputs.g * 1.00001), initial_states=state)
    assert error(off.out, wanted) > NORMAL


@pytest.mark.parametrize("steepest", [8.0, 40.0])
def test_constant_extreme_gates_stay_finite_and_right(form, steepest):
    inputs, state = draw(200, 1.0)
    inputs = inputs._replace(g=torch.full_like(inputs.g, -steepest))
    done = prefill_kda(inputs, initial_states=state)
    wanted, last = oracle(inputs, state)
    assert error(done.out, wanted) <= EXTREME
    assert error(done.states, last) <= EXTREME


def test_packed_sequences_are_those_sequences_alone(form):
    starts = [0, 1, 64, 130, 200]
    inputs, _ = draw(200, 1.0)
    _, state = draw(1, 1.0, seed=1)
    states = torch.cat([state * n for n in range(1, 5)])
    whole = prefill_kda(inputs, starts=starts, initial_states=states)
    for n, (start, end) in enumerate(pairwise(starts)):
        alone = prefill_kda(rows(inputs, start, end), initial_states=states[n : n + 1])
        assert torch.equal(alone.out, whole.out[start:end])
        assert torch.equal(alone.states[0], whole.states[n])


def test_boundary_states_are_the_states_of_shorter_runs(form):
    bounds, starts = [1, 64, 100, 128, 150, 200], [0, 100, 200]
    inputs, _ = draw(200, 1.0)
    done = prefill_kda(inputs, starts=starts, bounds=bounds)
    for bound, state in zip(bounds, done.bound_states, strict=True):
        start = 100 if bound > 100 else 0
        shorter = prefill_kda(rows(inputs, start, bound))
        assert error(state, shorter.states[0].double()) <= 2 * NORMAL
    assert torch.equal(done.bound_states[2], done.states[0])
    assert torch.equal(done.bound_states[5], done.states[1])


def test_step_by_step_with_a_carried_state_is_the_whole(form):
    inputs, state = draw(200, 1.0)
    whole = prefill_kda(inputs, initial_states=state)
    outputs, carried = [], state
    for start, end in ((0, 1), (1, 65), (65, 66), (66, 200)):
        done = prefill_kda(rows(inputs, start, end), initial_states=carried)
        outputs.append(done.out)
        carried = done.states
    assert error(torch.cat(outputs), whole.out.double()) <= 2 * NORMAL
    assert error(carried, whole.states.double()) <= 2 * NORMAL


def test_memory_around_the_inputs_and_of_earlier_calls_does_not_count(form):
    inputs, state = draw(90, 1.0)
    clean = prefill_kda(inputs, initial_states=state)
    large, _ = draw(300, 1.0)
    prefill_kda(KdaInputs(*(torch.full_like(tensor, math.nan) for tensor in large)))

    def poisoned(tensor):
        around = torch.full((tensor.shape[0] + 200, *tensor.shape[1:]), math.nan)
        around[100:-100] = tensor
        return around[100:-100]

    inside = KdaInputs(*(poisoned(tensor) for tensor in inputs))
    done = prefill_kda(inside, initial_states=poisoned(state))
    assert torch.equal(done.out, clean.out)
    assert torch.equal(done.states, clean.states)


def test_the_initial_state_is_read_only_and_absent_means_zeros(form):
    inputs, state = draw(70, 1.0)
    kept = state.clone()
    prefill_kda(inputs, initial_states=state)
    assert torch.equal(state, kept)
    zeros = prefill_kda(inputs, initial_states=torch.zeros_like(state))
    assert torch.equal(prefill_kda(inputs).out, zeros.out)


@pytest.mark.parametrize(
    "cuts",
    [
        {"starts": [0, 5]},
        {"starts": [1, 10]},
        {"starts": [0, 7, 7, 10]},
        {"bounds": [0]},
        {"bounds": [3, 3]},
        {"bounds": [11]},
    ],
)
def test_cuts_that_do_not_fit_are_refused(cuts):
    inputs, _ = draw(10, 1.0)
    with pytest.raises(ValueError, match="do not ascend"):
        prefill_kda(inputs, **cuts)


def test_what_the_native_kernel_does_not_take_goes_the_eager_way():
    inputs, _ = draw(10, 1.0)
    double = KdaInputs(*(tensor.double() for tensor in inputs))
    assert "float64" in (refusal(double) or "") or native().library is None
    assert prefill_kda(double).out.dtype == torch.float64
    wanting = inputs._replace(q=inputs.q.requires_grad_())
    assert refusal(wanting) is not None


def layer_inputs(length, heads=2, dim=32):
    random = torch.Generator().manual_seed(length)
    wide = heads * dim

    def normal(*shape):
        return torch.randn(*shape, generator=random)

    conv, norm = normal(4, 3 * wide), normal(dim)
    weights = KdaWeights(conv, normal(heads).exp(), norm, 1e-5)
    raw = normal(length, 3 * wide + heads + 7)
    step = KdaRows(raw, 4 * normal(length, wide), normal(length, wide))
    return weights, step, normal(3, 3 * wide), normal(heads, dim, dim)


@pytest.mark.parametrize("length", [1, 2, 3, 64, 200])
def test_a_fused_layer_is_the_eager_one(length, eager_kernels):
    if native().library is None:
        pytest.skip(f"no native kernels: {native().reason}")
    weights, step, history, state = layer_inputs(length)
    fused_state, eager_state = state.clone(), state.clone()
    fused = run_layer(weights, step, history, fused_state, torch.empty_like(step.gate))
    eager_kernels()
    eager = run_layer(weights, step, history, eager_state, torch.empty_like(step.gate))
    assert error(fused, eager.double()) <= 5e-6
    assert error(fused_state, eager_state.double()) <= 5e-6
    assert error(fused_state, state.double()) > 1e-2
