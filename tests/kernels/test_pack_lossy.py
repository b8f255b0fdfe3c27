"""Lossy codecs: errors within the bound they tell, sizes, references, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prefill_kernels.native import Native, native
from prefill_kernels.pack import (
    ElementType,
    PackError,
    codec,
    fast,
    lossy_names,
    max_payload_bytes,
    names,
)
from prefill_kernels.pack.fp8 import fp8_decode, fp8_encode
from prefill_kernels.pack.hadamard import norm, walsh
from prefill_kernels.pack.rows import from_bf16, to_bf16

KV = (512, 576)  # rows of the released model: latent of 512, k_pe of 64
STATE = (4, 128, 128)
RATIOS = {  # (bf16 cache rows, fp32 state)
    "bf16": (1.0, 2.0),
    "int12-zstd": (1.95, 3.85),
    "int8-row": (1.98, 3.93),
    "fp8-row": (1.98, 3.93),
    "hadamard-int8": (1.87, 3.93),
    "hadamard-int4": (3.55, 7.1),
}


def block_of(shape, element, seed=0, spread=1.0):
    """Normal values whose rows differ in size by powers of ten."""
    random = np.random.default_rng(seed)
    values = random.standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        sizes = 10 ** random.uniform(-spread, spread, (*shape[:-1], 1))
        values = (values * sizes).astype(np.float32)
    return to_bf16(values).reshape(shape) if element is ElementType.BFLOAT16 else values


def floats(block, element):
    return from_bf16(block) if element is ElementType.BFLOAT16 else block


def round_trip(name, block, element):
    encoded = codec(name).encode(block, element)
    out = np.zeros_like(block)
    codec(name).decode(encoded.payload, element, out)
    return encoded, np.abs(floats(out, element) - floats(block, element)).max()


@pytest.mark.parametrize("name", lossy_names())
@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.lists(st.integers(1, 70), min_size=1, max_size=3),
    element=st.sampled_from(list(ElementType)),
)
def test_no_error_is_above_the_bound_it_tells(name, seed, shape, element):
    block = block_of(tuple(shape), element, seed)
    encoded, error = round_trip(name, block, element)
    assert error <= encoded.error_bound
    assert len(encoded.payload) <= max_payload_bytes(name, block.nbytes)


@pytest.mark.parametrize("name", lossy_names())
def test_the_bound_is_not_far_from_the_error(name):
    """A twin of the test above: a bound of infinity would pass it."""
    encoded, error = round_trip(name, block_of(STATE, ElementType.FLOAT32), ElementType.FLOAT32)
    assert 0 < encoded.error_bound <= 2 * error


@pytest.mark.parametrize("name", lossy_names())
def test_sizes_are_those_published(name):
    kv, state = RATIOS[name]
    rows = block_of(KV, ElementType.BFLOAT16)
    matrices = block_of(STATE, ElementType.FLOAT32)
    coded = codec(name).encode(rows, ElementType.BFLOAT16).payload
    assert rows.nbytes / len(coded) >= kv
    coded = codec(name).encode(matrices, ElementType.FLOAT32).payload
    assert matrices.nbytes / len(coded) >= state


def relative(name, block):
    """Norm of the error over the norm of the block."""
    out = np.zeros_like(block)
    payload = codec(name).encode(block, ElementType.FLOAT32).payload
    codec(name).decode(payload, ElementType.FLOAT32, out)
    return np.linalg.norm(out - block) / np.linalg.norm(block)


def test_more_bits_and_transforms_make_smaller_errors():
    block = block_of(STATE, ElementType.FLOAT32, spread=0)
    block[0, 3] *= 30  # a row and a column of outliers, as states have
    block[0, :, 5] *= 30
    errors = {name: relative(name, block) for name in lossy_names()}
    finest_first = ["bf16", "int12-zstd", "hadamard-int8", "int8-row", "hadamard-int4"]
    assert sorted(finest_first, key=errors.__getitem__) == finest_first


SHAPES = [(1,), (7, 33), (64, 576), (3, 5, 128), (1000, 3), (2, 16, 64), (3, 64, 64), (2, 256, 32)]


def off(monkeypatch):
    monkeypatch.setattr(fast, "native", lambda: Native(None, "switched off by a test"))


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("element", list(ElementType))
@pytest.mark.parametrize("shape", SHAPES)
def test_native_forms_are_the_reference_to_the_bit(monkeypatch, shape, element, name):
    if native().library is None:
        pytest.skip(f"no native kernels: {native().reason}")
    block = block_of(shape, element, spread=20)
    block.reshape(-1)[:40] = 0
    quick, out = codec(name).encode(block, element), np.zeros_like(block)
    codec(name).decode(quick.payload, element, out)
    off(monkeypatch)
    slow, reference = codec(name).encode(block, element), np.zeros_like(block)
    codec(name).decode(slow.payload, element, reference)
    assert quick == slow
    assert np.array_equal(out, reference)


def test_fp8_is_the_e4m3_of_torch():
    values = np.concatenate(
        [np.linspace(-448, 448, 4097), np.geomspace(1e-6, 448, 4097), -np.geomspace(1e-6, 1, 999)]
    ).astype(np.float32)
    theirs = torch.from_numpy(values).to(torch.float8_e4m3fn)
    assert np.array_equal(fp8_encode(values), theirs.view(torch.uint8).numpy())
    assert np.array_equal(fp8_decode(fp8_encode(values)), theirs.float().numpy())


@pytest.mark.parametrize("size", [16, 32, 128])
def test_the_transform_is_hadamards_and_its_own_inverse(size):
    matrix = walsh(np.eye(size)) * norm(size)
    assert np.allclose(matrix @ matrix, np.eye(size), atol=1e-6)
    assert np.allclose(np.abs(matrix), size**-0.5)
    assert np.array_equal(matrix, matrix.T)


@pytest.mark.parametrize("form", ["native", "numpy"])
@pytest.mark.parametrize("name", lossy_names())
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e31])
def test_what_no_scale_holds_is_refused(monkeypatch, name, value, form):
    if form == "numpy":
        off(monkeypatch)
    for at in (0, 40, 129):
        block = block_of((130,), ElementType.FLOAT32)
        block[at] = value
        with pytest.raises(PackError, match="Inf, NaN or more than"):
            codec(name).encode(block, ElementType.FLOAT32)


@pytest.mark.parametrize("name", lossy_names())
def test_zeros_and_tiny_values_come_back_as_good_as_they_went(name):
    for value in (0.0, 1e-38, -1e-33):
        block = np.full((3, 64), value, np.float32)
        encoded, error = round_trip(name, block, ElementType.FLOAT32)
        assert error <= encoded.error_bound <= 2 * abs(value)


@pytest.mark.parametrize("form", ["native", "numpy"])
@pytest.mark.parametrize("name", lossy_names())
def test_a_row_that_is_next_to_nothing_beside_others_is_within_the_bound(monkeypatch, name, form):
    """Below 1e-30 a row has no scale: its elements are the error, not a step of the others'."""
    if form == "numpy":
        off(monkeypatch)
    for least in (1e-38, 9e-31):
        block = np.full((2, 64), 2e-30, np.float32)
        block[0] = least
        encoded, error = round_trip(name, block, ElementType.FLOAT32)
        assert error <= encoded.error_bound <= 1.1e-30


@pytest.mark.parametrize(
    ("name", "payload", "message"),
    [
        ("bf16", b"123", "3 bytes, expected 256"),
        ("bf16", b"\x80\x7f" * 128, "undefined or above"),
        ("int12-zstd", b"1", "its head alone has 9"),
        ("int12-zstd", b"\x80\x00\x00\x00\x02" + bytes(4) + bytes(66), "method 2 is unknown"),
        ("int12-zstd", b"\x80\x00\x00\x00\x00\xff\xff\xff\xff", "expected 4294967370"),
        ("int12-zstd", b"\x40\x00\x00\x00\x00\x80" + bytes(199), "of 64 elements, expected 128"),
        ("int8-row", b"1", "its head alone has 4"),
        ("int8-row", b"\x01\x00\x00\x00", "rows of 1 elements"),
        ("int8-row", b"\xff\xff\xff\xff", "rows of 4294967295 elements"),
        ("int8-row", b"\x40\x00\x00\x00" + bytes(2 * 2 + 128), "of 64 elements, expected 128"),
        ("fp8-row", b"\x40\x00\x00\x00" + bytes(2 * 2 + 128), "of 64 elements, expected 128"),
        ("int8-row", b"\x80\x00\x00\x00" + b"\x80\x7f" + bytes(128), "a scale is negative"),
        ("fp8-row", b"\x80\x00\x00\x00" + b"\x00\xbf" + bytes(128), "a scale is negative"),
        ("hadamard-int8", b"1", "its head alone has 8"),
        ("hadamard-int8", b"\x00\x10\x00\x00\x10\x00\x00\x00", "a matrix of 4096 x 16"),
        ("hadamard-int8", b"\x10\x00\x00\x00\x10\x00\x00\x00", "16 x 16, expected 1 x 32"),
        ("hadamard-int8", b"\x01\x00\x00\x00\x20\x00\x00\x00", "8 bytes, expected 144"),
        ("hadamard-int4", b"1", "1 bytes, expected 72"),
    ],
)
def test_broken_payloads_are_refused_by_size_and_field(name, payload, message):
    with pytest.raises(PackError, match=message):
        codec(name).decode(payload, ElementType.FLOAT32, np.zeros(128, np.float32))
