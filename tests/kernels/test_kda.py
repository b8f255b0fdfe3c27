"""The chunk form of KDA against the recurrence: lengths, gates, carried states, gradients."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from prefill_kernels.kda import chunk_kda, naive_kda
from torch import Tensor
from torch.nn import functional

HEADS, K, V = 2, 32, 24
LENGTHS = (1, 15, 16, 63, 64, 65, 200)


class Inputs(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    beta: Tensor
    state: Tensor

    def to(self, dtype: torch.dtype) -> Inputs:
        return Inputs(*(x.to(dtype) for x in self))

    def rows(self, part: slice) -> tuple[Tensor, ...]:
        return tuple(x[:, part] for x in self[:5])


def draw(length: int, steepest: float, seed: int = 0) -> Inputs:
    """Float64 inputs with log decays spread evenly between 0 and `-steepest`."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=random)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=random)

    q = functional.normalize(normal(2, length, HEADS, K), dim=-1) * K**-0.5
    k = functional.normalize(normal(2, length, HEADS, K), dim=-1)
    g = -steepest * uniform(2, length, HEADS, K)
    beta = uniform(2, length, HEADS)
    return Inputs(q, k, normal(2, length, HEADS, V), g, beta, normal(2, HEADS, K, V))


def error(value: Tensor, reference: Tensor) -> float:
    """Norm of the difference over the norm of the reference."""
    return float((value.double() - reference).norm() / reference.norm())


@pytest.mark.parametrize("steepest", [0.0, 0.1, 2.0, 8.0, 40.0])
@pytest.mark.parametrize("length", LENGTHS)
def test_chunks_equal_the_recurrence(length: int, steepest: float) -> None:
    x = draw(length, steepest)
    out, state = naive_kda(*x)
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        fast_out, fast_state = chunk_kda(*x.to(dtype)[:5], initial_state=x.state.to(dtype))
        assert fast_out.dtype == fast_state.dtype == dtype
        assert error(fast_out, out) < bound
        assert error(fast_state, state) < bound


def test_the_error_measure_sees_a_wrong_gate() -> None:
    x = draw(65, 2.0)
    out, _ = naive_kda(*x)
    wrong, _ = chunk_kda(x.q, x.k, x.v, x.g * 1.001, x.beta, initial_state=x.state)
    assert error(wrong, out) > 1e-5


@pytest.mark.parametrize("steepest", [1.0, 8.0])
def test_constant_extreme_gates_stay_finite(steepest: float) -> None:
    x = draw(192, steepest)
    x = x._replace(g=torch.full_like(x.g, -steepest))
    out, state = naive_kda(*x)
    fast_out, fast_state = chunk_kda(*x.to(torch.float32)[:5], initial_state=x.state.float())
    assert fast_out.isfinite().all()
    assert fast_state.isfinite().all()
    assert error(fast_out, out) < 1e-5
    assert error(fast_state, state) < 1e-5


@pytest.mark.parametrize("cut", [1, 63, 64, 100, 199])
def test_a_carried_state_gives_the_whole(cut: int) -> None:
    x = draw(200, 2.0)
    whole, last = chunk_kda(*x[:5], initial_state=x.state)
    first, state = chunk_kda(*x.rows(slice(None, cut)), initial_state=x.state)
    second, carried = chunk_kda(*x.rows(slice(cut, None)), initial_state=state)
    assert error(torch.cat((first, second), dim=1), whole) < 1e-12
    assert error(carried, last) < 1e-12


def test_no_initial_state_means_zeros_and_the_given_one_is_not_written_to() -> None:
    x = draw(70, 2.0)
    zeros = torch.zeros_like(x.state)
    without, _ = chunk_kda(*x[:5])
    given, _ = chunk_kda(*x[:5], initial_state=zeros)
    assert torch.equal(without, given)
    assert not zeros.any()


def test_bf16_inputs_are_computed_in_float32() -> None:
    x = draw(70, 2.0).to(torch.bfloat16)
    out, state = chunk_kda(*x[:5], initial_state=x.state)
    assert (out.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    _, oracle = naive_kda(*x.to(torch.float64))
    assert error(state, oracle) < 1e-5


@pytest.mark.parametrize("steepest", [0.1, 2.5, 8.0, 40.0])
def test_gradients_equal_those_of_the_recurrence(steepest: float) -> None:
    """In float32 as well: 1 / e^x has a gradient that overflows where e^x itself does not."""
    x = draw(70, steepest)

    def gradients(inputs: Inputs, fast: bool) -> list[Tensor]:
        leaves = [tensor.requires_grad_() for tensor in inputs]
        run = chunk_kda(*leaves[:5], initial_state=leaves[5]) if fast else naive_kda(*leaves)
        return list(torch.autograd.grad(sum(y.square().sum() for y in run), leaves))

    reference = gradients(x.to(torch.float64), fast=False)
    for dtype, bound in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
        fresh = Inputs(*(t.detach().to(dtype).clone() for t in x))
        for value, wanted in zip(gradients(fresh, fast=True), reference, strict=True):
            assert error(value, wanted) < bound


def test_a_chunk_size_that_is_no_power_of_two_is_refused() -> None:
    x = draw(8, 1.0)
    with pytest.raises(ValueError, match="power of two"):
        chunk_kda(*x[:5], chunk_size=24)
