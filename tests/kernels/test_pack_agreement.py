"""Encoder and decoder follow one rule: of a row's width, a matrix's sides, and of what is held."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prefill_kernels.native import Native, native
from prefill_kernels.pack import ElementType, PackError, bf16, codec, fast, hadamard, lossy_names
from prefill_kernels.pack.rows import WIDEST, from_bf16, to_bf16

FORMS = ("native", "numpy")
SHAPES = [(1,), (40,), (3, 65), (5, 1, 128), (2, 16, 64), (128, 128), (256, 256)]
ROWS = ("int8-row", "fp8-row", "int12-zstd")


@pytest.fixture
def formed(monkeypatch):
    """Call it with the form that codecs then take."""

    def take(form):
        library = native() if form == "native" else Native(None, "numpy is asked for")
        if form == "native" and library.library is None:
            pytest.skip(f"no native kernels: {library.reason}")
        monkeypatch.setattr(fast, "native", lambda: library)

    return take


def as_element(values, element):
    values = values.astype(np.float32)
    if element is ElementType.FLOAT32:
        return values
    return (values.view(np.uint32) >> 16).astype(np.uint16)  # cut off: NaN and Inf stay


def blocks(shape, element):
    """Arrays over the whole range of float32: any bits at all, or values about one size."""
    patterns = {
        "constant": lambda random: np.ones(shape),
        "signs": lambda random: random.choice([-1.0, 1.0], shape),
        "normal": lambda random: random.standard_normal(shape),
        "one": lambda random: np.eye(1, int(np.prod(shape))).reshape(shape),
    }

    def drawn(kind, seed, exponent):
        random = np.random.default_rng(seed)
        if kind == "bits":
            bits = random.integers(0, 2**32, shape, dtype=np.uint32)
            return as_element(bits.view(np.float32), element)
        with np.errstate(over="ignore", under="ignore"):
            return as_element(patterns[kind](random) * 10.0**exponent, element)

    exponents = st.one_of(st.floats(-46, 39), st.floats(28, 31), st.floats(29.6, 30.01))
    kinds = st.sampled_from([*patterns, "bits"])
    return st.builds(drawn, kinds, st.integers(0, 2**32 - 1), exponents)


def is_held(name, block, element):
    """Whether encode takes it; what it took, decode takes, and gives it back within the bound."""
    try:
        encoded = codec(name).encode(block, element)
    except PackError:
        return False
    out = np.empty_like(block)
    codec(name).decode(encoded.payload, element, out)
    error = np.abs(exact(out, element) - exact(block, element)).max()
    assert error <= encoded.error_bound  # NaN compares false
    return True


def exact(array, element):
    """float64 of a block's elements."""
    return (from_bf16(array) if element is ElementType.BFLOAT16 else array).astype(float)


@pytest.mark.parametrize("name", lossy_names())
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_whatever_an_encoder_takes_its_decoder_takes(name, data):
    element = data.draw(st.sampled_from(list(ElementType)))
    block = data.draw(blocks(data.draw(st.sampled_from(SHAPES)), element))
    held = []
    for form in FORMS if native().library is not None else FORMS[1:]:
        with pytest.MonkeyPatch.context() as patch:
            library = native() if form == "native" else Native(None, "numpy is asked for")
            patch.setattr(fast, "native", lambda library=library: library)
            held.append(is_held(name, block, element))
    assert len(set(held)) == 1


@pytest.mark.parametrize("form", FORMS)
def test_a_matrix_whose_transform_outgrows_a_scale_is_refused(formed, form):
    formed(form)
    flat = np.full((256, 256), 5.1e29, np.float32)  # its one sum is 256 times as large
    with pytest.raises(PackError, match="a scale is above"):
        codec("hadamard-int8").encode(flat, ElementType.FLOAT32)
    assert is_held("hadamard-int8", flat * np.float32(0.9), ElementType.FLOAT32)
    assert is_held("hadamard-int8", flat[:16, :16].copy(), ElementType.FLOAT32)


@pytest.mark.parametrize("form", FORMS)
def test_a_value_that_rounds_to_more_than_the_largest_is_refused(formed, form):
    formed(form)
    for value, held in ((1e30, False), (0.99e30, True)):
        block = np.full(40, value, np.float32)
        assert is_held("bf16", block, ElementType.FLOAT32) is held


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["bf16", "hadamard-int8"])
def test_an_encoder_that_does_not_look_at_what_it_wrote_is_noticed(formed, monkeypatch, name, form):
    """The twin: what the decoder would refuse goes out."""
    formed(form)
    monkeypatch.setattr(bf16 if name == "bf16" else hadamard, "within", lambda values: True)
    block = np.full((256, 256), 1e30, np.float32)
    payload = codec(name).encode(block, ElementType.FLOAT32).payload
    monkeypatch.undo()
    with pytest.raises(PackError, match="above"):
        codec(name).decode(payload, ElementType.FLOAT32, np.empty_like(block))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("form", FORMS)
@settings(deadline=None, max_examples=60)
@given(sent=st.sampled_from(SHAPES), wanted=st.sampled_from(SHAPES))
@example(sent=(2, 64), wanted=(4, 32))
@example(sent=(128,), wanted=(2, 64))
def test_rows_of_another_width_are_refused_and_of_the_same_taken(name, form, sent, wanted):
    with pytest.MonkeyPatch.context() as patch:
        library = native() if form == "native" else Native(None, "numpy is asked for")
        patch.setattr(fast, "native", lambda: library)
        payload = codec(name).encode(np.ones(sent, np.float32), ElementType.FLOAT32).payload
        out = np.zeros(wanted, np.float32)
        if width(sent) == width(wanted) and np.prod(sent) == np.prod(wanted):
            codec(name).decode(payload, ElementType.FLOAT32, out)
            return
        with pytest.raises(PackError, match=r"(elements|bytes), expected"):
            codec(name).decode(payload, ElementType.FLOAT32, out)
        assert not out.any()


def width(shape):
    return shape[-1] if shape[-1] >= 32 else 64


@pytest.mark.parametrize("form", FORMS)
def test_a_matrix_of_other_sides_is_refused(formed, form):
    formed(form)
    square = np.ones((64, 64), np.float32)
    payload = codec("hadamard-int8").encode(square, ElementType.FLOAT32).payload
    for shape in ((32, 128), (128, 32), (4_096,), (1, 4_096)):
        with pytest.raises(PackError, match="a matrix of 64 x 64, expected"):
            codec("hadamard-int8").decode(payload, ElementType.FLOAT32, np.zeros(shape, np.float32))
    for shape in ((64, 64), (1, 64, 64)):
        codec("hadamard-int8").decode(payload, ElementType.FLOAT32, np.zeros(shape, np.float32))


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("last", [31, 32, WIDEST, WIDEST + 1])
def test_the_narrowest_and_the_widest_rows_come_back(name, last):
    """Beyond them the elements lie in lines, for the encoder as for the decoder."""
    block = to_bf16(np.random.default_rng(0).standard_normal((2, last))).reshape(2, last)
    assert is_held(name, block, ElementType.BFLOAT16)
