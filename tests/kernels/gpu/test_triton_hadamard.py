"""Hadamard int8 and int4 by Triton: the reference's bytes, and its refusals."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from prefill_kernels.pack import ElementType, codec
from prefill_kernels.pack.element import PackError

DEVICE = os.environ.get("PREFILL_TEST_DEVICE", "cpu")
SHAPES = [(1,), (33,), (3, 40), (2, 16, 64), (3, 32, 16), (2, 128, 128), (256, 32), (70, 5)]
HEADS = {"int8": 8, "int4": 0}  # bytes before the scales


class Code(NamedTuple):
    """Triton's encode and decode, and the reference."""

    encode: Any
    decode: Any
    reference: Any
    head_bytes: int


@pytest.fixture(params=list(HEADS))
def code(request):
    from prefill_kernels.pack import triton_hadamard as ours

    pair = (getattr(ours, f"{way}_hadamard_{request.param}") for way in ("encode", "decode"))
    return Code(*pair, codec(f"hadamard-{request.param}"), HEADS[request.param])


def draw(shape):
    """Normal values of rows that differ in size, with zeros in a row."""
    random = np.random.default_rng(0)
    sizes = 10 ** random.uniform(-3, 3, (*shape[:-1], 1))
    values = (random.standard_normal(shape) * sizes).astype(np.float32)
    values.reshape(-1)[1:20] = 0
    return values


@pytest.mark.parametrize("shape", SHAPES)
def test_the_payload_is_the_reference_s_and_decodes_to_the_same(code, shape):
    values = draw(shape)
    wanted = code.reference.encode(values, ElementType.FLOAT32).payload
    payload = code.encode(torch.from_numpy(values).to(DEVICE))
    assert bytes(payload.cpu().numpy()) == wanted
    back, theirs = torch.full(shape, torch.nan, device=DEVICE), np.empty_like(values)
    code.decode(payload, back)
    code.reference.decode(wanted, ElementType.FLOAT32, theirs)
    assert np.array_equal(back.cpu().numpy(), theirs)


@pytest.mark.parametrize("shape", [(2, 16, 64), (3, 40)])
def test_values_next_to_nothing_are_zeros_as_the_reference_has_them(code, shape):
    values = draw(shape) * np.float32(1e-31)
    wanted = code.reference.encode(values, ElementType.FLOAT32).payload
    assert bytes(code.encode(torch.from_numpy(values).to(DEVICE)).cpu().numpy()) == wanted


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1.001e30])
def test_what_no_scale_holds_is_refused(code, value):
    values = torch.ones(2, 32, device=DEVICE)
    values[1, 7] = value
    with pytest.raises(PackError, match="lossless"):
        code.encode(values)


def test_a_matrix_whose_transform_outgrows_a_scale_is_refused():
    from prefill_kernels.pack.triton_hadamard import encode_hadamard_int8

    with pytest.raises(PackError, match="above"):
        encode_hadamard_int8(torch.full((256, 256), 6e29, device=DEVICE))
    encode_hadamard_int8(torch.full((16, 16), 6e29, device=DEVICE))


def test_a_payload_of_another_size_or_with_a_broken_scale_is_refused(code):
    values = torch.ones(2, 32, device=DEVICE)
    payload = code.encode(values)
    for size in (-1, 3, 0):
        with pytest.raises(PackError, match="expected"):
            code.decode(payload[:size], values)
    payload[code.head_bytes : code.head_bytes + 2] = 255
    with pytest.raises(PackError, match="a scale is negative"):
        code.decode(payload, values)


def test_a_matrix_of_other_sides_is_refused():
    from prefill_kernels.pack.triton_hadamard import decode_hadamard_int8, encode_hadamard_int8

    payload = encode_hadamard_int8(torch.ones(64, 64, device=DEVICE))
    with pytest.raises(PackError, match="a matrix of 64 x 64, expected 32 x 128"):
        decode_hadamard_int8(payload, torch.ones(32, 128, device=DEVICE))
