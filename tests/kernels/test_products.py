"""Products by packed weights against torch in float64, at the edges of tiles, panels and parts."""

from __future__ import annotations

import math

import pytest
import torch
from prefill_kernels.native import native
from prefill_kernels.products import (
    Factor,
    Routes,
    add_product,
    add_rows,
    multiply,
    multiply_rows,
)

SIZES = [(1, 64, 48), (1, 37, 9), (5, 16, 16), (6, 384, 20), (67, 385, 130), (400, 800, 33)]


@pytest.fixture(params=["native", "unpacked", "eager"])
def form(request, eager_kernels):
    """What makes a factor: packed, packed and then used without native kernels, never packed."""
    if request.param != "eager" and native().library is None:
        pytest.skip(f"no native kernels: {native().reason}")

    def make(weight):
        if request.param == "eager":
            eager_kernels()
        factor = Factor.of(weight)
        if request.param == "unpacked":
            eager_kernels()
        return factor

    return make


def draw(rows, inner, columns):
    """Rows that lie among others, a weight, and an output whose surroundings are poisoned."""
    random = torch.Generator().manual_seed(rows + inner)
    x = torch.full((rows, inner + 5), math.nan)
    x[:, :inner] = torch.randn(rows, inner, generator=random)
    around = torch.full((rows, columns + 7), math.nan)
    weight = torch.randn(columns, inner, generator=random)
    return x[:, :inner], weight, around, around[:, :columns]


def assert_near(found, wanted, inner):
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-6 * inner)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_product_is_torchs_and_touches_nothing_else(form, sizes, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, weight, around, out = draw(*sizes)
    factor, bias = form(weight), torch.randn(sizes[2])
    assert (factor.inner, factor.columns) == sizes[1:]
    assert torch.equal(factor.weight, weight)
    exact = x.double() @ weight.double().T
    assert_near(multiply(x, factor, out), exact, sizes[1])
    assert around[:, sizes[2] :].isnan().all()
    assert_near(multiply(x, factor, out, bias=bias), exact + bias, sizes[1])
    assert_near(add_product(x, factor, out), 2 * exact + bias, sizes[1])
    assert around[:, sizes[2] :].isnan().all()
    with pytest.raises(AssertionError):
        assert_near(out, exact + bias, sizes[1])


@pytest.mark.parametrize("sizes", SIZES)
def test_rows_are_taken_from_and_put_to_their_places(form, sizes):
    rows, inner, columns = sizes
    x, weight, _, _ = draw(2 * rows + 1, inner, columns)
    factor = form(weight)
    random = torch.Generator().manual_seed(1)
    places = torch.randperm(2 * rows + 1, generator=random)[:rows]
    routes = Routes(places, torch.rand(rows, generator=random))
    exact = x[places].double() @ weight.double().T
    taken = multiply_rows(x, routes, factor, torch.full((rows, columns), math.nan))
    assert_near(taken, exact, inner)
    held = torch.randn(2 * rows + 1, columns, generator=random)
    wanted = held.double()
    wanted[places] += routes.share[:, None] * exact
    assert_near(add_rows(x[places].contiguous(), routes, factor, held), wanted, inner)
