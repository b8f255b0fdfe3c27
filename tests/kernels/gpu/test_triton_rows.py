"""int8 rows by Triton: the reference's bytes, and its refusals."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from prefill_kernels.pack import ElementType, codec
from prefill_kernels.pack.element import PackError

DEVICE = os.environ.get("PREFILL_TEST_DEVICE", "cpu")
SHAPES = [(3, 40), (2, 3, 128), (7, 5)]


@pytest.fixture
def rows():
    from prefill_kernels.pack import triton_rows

    return triton_rows


def draw(shape):
    """Normal values of rows that differ in size, with a row of zeros and exact ties of codes."""
    random = np.random.default_rng(0)
    sizes = 10 ** random.uniform(-3, 3, (*shape[:-1], 1))
    values = (random.standard_normal(shape) * sizes).astype(np.float32)
    values[0] = 0
    values[-1, ..., :4] = [127.0, 0.5, 1.5, -2.5]
    values[-1, ..., 4:] = 1
    return values


@pytest.mark.parametrize("shape", SHAPES)
def test_the_payload_is_the_reference_s_and_decodes_to_the_same(rows, shape):
    values = draw(shape)
    wanted = codec("int8-row").encode(values, ElementType.FLOAT32).payload
    payload = rows.encode_int8_rows(torch.from_numpy(values).to(DEVICE))
    assert bytes(payload.cpu().numpy()) == wanted
    back, reference = torch.empty(shape, device=DEVICE), np.empty_like(values)
    rows.decode_int8_rows(payload, back)
    codec("int8-row").decode(wanted, ElementType.FLOAT32, reference)
    assert np.array_equal(back.cpu().numpy(), reference)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e31])
def test_what_no_scale_holds_is_refused(rows, value):
    values = torch.ones(2, 32, device=DEVICE)
    values[1, 7] = value
    with pytest.raises(PackError, match="lossless"):
        rows.encode_int8_rows(values)


def test_a_payload_of_another_size_or_with_a_broken_scale_is_refused(rows):
    values = torch.ones(2, 32, device=DEVICE)
    payload = rows.encode_int8_rows(values)
    with pytest.raises(PackError, match="expected 72"):
        rows.decode_int8_rows(payload[:-1], values)
    payload[4:6] = 255
    with pytest.raises(PackError, match="a scale is negative"):
        rows.decode_int8_rows(payload, values)


def test_rows_of_another_width_than_the_target_s_are_refused(rows):
    payload = rows.encode_int8_rows(torch.ones(2, 64, device=DEVICE))
    with pytest.raises(PackError, match="rows of 64 elements, expected 32"):
        rows.decode_int8_rows(payload, torch.ones(4, 32, device=DEVICE))
