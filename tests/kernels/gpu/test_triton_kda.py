"""KDA in Triton against the float64 recurrence: errors, packing, bounds, memory around it."""

from __future__ import annotations

import math

import pytest
import torch

NORMAL, EXTREME = 1e-6, 5e-6
LONG = pytest.mark.nightly
SMALL, UNEVEN, SQUARE = (1, 32, 32), (2, 24, 40), (2, 64, 64)
CASES = [
    (1, 1.0, SMALL, NORMAL),
    (63, 0.1, SMALL, NORMAL),
    (65, 1.0, UNEVEN, NORMAL),
    (65, 8.0, SMALL, EXTREME),
    *(
        pytest.param(length, steepest, SQUARE, bound, marks=LONG)
        for length in (1, 63, 64, 65, 200)
        for steepest, bound in ((0.1, NORMAL), (1.0, NORMAL), (8.0, EXTREME), (40.0, EXTREME))
    ),
    pytest.param(130, 1.0, (1, 256, 16), NORMAL, marks=LONG),
    pytest.param(130, 1.0, (1, 128, 128), NORMAL, marks=LONG),
]


@pytest.fixture
def triton_prefill():
    from prefill_kernels.kda.triton_chunk import triton_prefill

    return triton_prefill


@pytest.mark.parametrize(("length", "steepest", "shape", "bound"), CASES)
def test_it_is_the_recurrence(
    triton_prefill, draw, recurrence, error, length, steepest, shape, bound
):
    case = draw([0, length], steepest, shape)
    kept = case.states.clone()
    done = triton_prefill(case.inputs, initial_states=case.states)
    out, states = recurrence(case)
    assert error(done.out, out) <= bound
    assert error(done.states, states) <= bound
    assert torch.equal(case.states, kept)


def test_the_bound_sees_a_gate_that_is_off_by_a_hundred_thousandth(
    triton_prefill, draw, recurrence, error
):
    case = draw([0, 64], 1.0)
    off = triton_prefill(case.inputs._replace(g=case.inputs.g * 1.00001))
    out, _ = recurrence(case._replace(states=torch.zeros_like(case.states)))
    assert error(off.out, out) > NORMAL


@pytest.mark.parametrize("steepest", [8.0, pytest.param(40.0, marks=LONG)])
def test_constant_steep_gates_stay_finite_and_right(
    triton_prefill, draw, recurrence, error, steepest
):
    case = draw([0, 66], 1.0)
    steep = case._replace(inputs=case.inputs._replace(g=torch.full_like(case.inputs.g, -steepest)))
    done = triton_prefill(steep.inputs, initial_states=steep.states)
    out, states = recurrence(steep)
    assert error(done.out, out) <= EXTREME
    assert error(done.states, states) <= EXTREME


def test_packed_sequences_bounds_and_runs(triton_prefill, draw, recurrence, error):
    case, bounds = draw([0, 1, 66], 1.0), [1, 20]
    cuts = {"starts": case.starts, "initial_states": case.states, "bounds": bounds}
    done = triton_prefill(case.inputs, **cuts)
    out, states = recurrence(case)
    assert error(done.out, out) <= NORMAL
    assert error(done.states, states) <= NORMAL
    for bound, state in zip(bounds, done.bound_states, strict=True):
        assert error(state, recurrence(case, end=bound)[1][-1]) <= NORMAL
    assert torch.equal(done.bound_states[0], done.states[0])
    by_one = triton_prefill(case.inputs, **cuts, scratch_bytes=1)
    for left, right in zip(by_one, done, strict=True):
        assert torch.equal(left, right)


def test_memory_around_inputs_and_results_does_not_count(triton_prefill, draw, monkeypatch):
    case = draw([0, 66], 1.0, (1, 24, 40))
    clean = triton_prefill(case.inputs, initial_states=case.states, bounds=[64])
    guards = []

    def among_nans(tensor):
        """The same values with NaN on all sides, tokens and heads swapped in memory."""
        length, heads = tensor.shape[:2]
        around = tensor.new_full((heads + 2, length + 128, *tensor.shape[2:]), math.nan)
        inside = around[1:-1, 64:-64].transpose(0, 1)
        inside.copy_(tensor)
        return inside

    def guarded(*shape, device=None):
        base = torch.full((math.prod(shape) + 512,), math.nan, device=device)
        guards.append((base, math.prod(shape)))
        return base[256:-256].view(shape)

    inputs = type(case.inputs)(*(among_nans(tensor) for tensor in case.inputs))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", guarded)
        patch.setattr(
            torch, "empty_like", lambda x, memory_format: guarded(*x.shape, device=x.device)
        )
        done = triton_prefill(inputs, initial_states=case.states, bounds=[64])
    for left, right in zip(done, clean, strict=True):
        assert torch.equal(left, right)
    assert len(guards) >= 9
    for base, size in guards:
        assert base[:256].isnan().all()
        assert base[256 + size :].isnan().all()


@pytest.mark.nightly
def test_step_by_step_with_a_carried_state_is_the_whole(triton_prefill, draw, error):
    case = draw([0, 200], 1.0)
    whole = triton_prefill(case.inputs, initial_states=case.states)
    outputs, carried = [], case.states
    for start, end in ((0, 1), (1, 65), (65, 66), (66, 200)):
        rows = type(case.inputs)(*(tensor[start:end] for tensor in case.inputs))
        done = triton_prefill(rows, initial_states=carried)
        outputs.append(done.out)
        carried = done.states
    assert error(torch.cat(outputs), whole.out.double().cpu()) <= 2 * NORMAL
    assert error(carried, whole.states.double().cpu()) <= 2 * NORMAL


def test_a_decode_step_moves_only_its_own_states(draw, recurrence, error):
    from prefill_kernels.kda.triton_chunk import triton_step

    case = draw([0, 1, 2, 3], 1.0, (2, 24, 40))
    pool = torch.full((5, 2, 24, 64), math.nan, device=case.states.device)
    states = pool[1:4, ..., :40]
    states.copy_(case.states)
    out = triton_step(case.inputs, states)
    wanted, wanted_states = recurrence(case)
    assert error(out, wanted) <= NORMAL
    assert error(states, wanted_states) <= NORMAL
    assert pool[[0, 4]].isnan().all()
    assert pool[1:4, ..., 40:].isnan().all()


@pytest.mark.parametrize("wrong", ["type", "shape", "layout"])
def test_states_that_cannot_be_updated_in_place_are_refused(draw, wrong):
    from prefill_kernels.kda.triton_chunk import triton_step

    case = draw([0, 1], 1.0)
    states = {
        "type": case.states.double(),
        "shape": case.states[:, :, 1:],
        "layout": case.states.transpose(-1, -2),
    }[wrong]
    with pytest.raises(ValueError, match="in place"):
        triton_step(case.inputs, states)


def test_no_gate_may_be_missing_from_a_bound(triton_prefill, draw):
    case = draw([0, 3], 1.0)
    with pytest.raises(ValueError, match="do not ascend"):
        triton_prefill(case.inputs, bounds=[4])


@pytest.mark.parametrize("precision", ["ieee", "tf32x3"])
def test_both_exact_products_hold_the_bound_on_a_device(
    on_device, triton_prefill, draw, recurrence, error, precision
):
    case = draw([0, 2_000], 1.0, (4, 128, 128))
    done = triton_prefill(case.inputs, initial_states=case.states, precision=precision)
    out, states = recurrence(case)
    assert error(done.out, out) <= NORMAL
    assert error(done.states, states) <= NORMAL


def test_bfloat16_is_as_near_as_its_digits(on_device, triton_prefill, draw, recurrence, error):
    case = draw([0, 500, 2_000], 1.0, (4, 128, 128))
    q, k, v, g, beta = case.inputs
    rounded = type(case.inputs)(q.bfloat16(), k.bfloat16(), v.bfloat16(), g, beta)
    case = case._replace(inputs=rounded)
    done = triton_prefill(case.inputs, starts=case.starts, initial_states=case.states)
    out, states = recurrence(case)
    assert error(done.out, out) <= 1e-2
    assert error(done.states, states) <= 5e-3
    assert done.states.dtype == torch.float32


def test_fla_agrees_on_a_device(on_device, draw, recurrence, error):
    pytest.importorskip("fla", reason="flash-linear-attention is not installed: extra [gpu]")
    from prefill_kernels.dispatch import Backend
    from prefill_kernels.kda.device import prefill_on_device

    case = draw([0, 500, 2_000], 1.0, (4, 128, 128))
    q, k, v, g, beta = case.inputs
    inputs = type(case.inputs)(q.bfloat16(), k.bfloat16(), v.bfloat16(), g, beta)
    case = case._replace(inputs=inputs)
    cuts = (case.starts, case.states, case.starts[1:])
    done = prefill_on_device(case.inputs, *cuts, wanted=Backend.FLA)
    out, states = recurrence(case)
    assert error(done.out, out) <= 2e-2
    assert error(done.states, states) <= 2e-2
