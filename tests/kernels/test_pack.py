"""Codecs: lossless ones give every bit back, and nothing else is ever written."""

import random

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from prefill_kernels.pack import (
    ElementType,
    PackError,
    codec,
    lossy_names,
    max_payload_bytes,
    names,
)
from prefill_wire.codecs import Codec as WireCodec

FUZZED = 7_200  # times 14 codecs and elements: more than 10^5


def state(seed, items, element):
    random_numbers = np.random.default_rng(seed).standard_normal(items).astype(np.float32)
    if element is ElementType.FLOAT32:
        return random_numbers
    return (random_numbers.view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize("name", names())
@given(st.integers(0, 2**32 - 1), st.integers(1, 3000), st.sampled_from(list(ElementType)))
def test_round_trip_to_the_bit(name, seed, items, element):
    block = state(seed, items, element)
    encoded = codec(name).encode(block, element)
    out = np.zeros_like(block)
    codec(name).decode(encoded.payload, element, out)
    assert out.tobytes() == block.tobytes()
    assert encoded.error_bound == 0.0
    assert len(encoded.payload) <= max_payload_bytes(name, block.nbytes)


def test_planes_shrink_bf16_state():
    block = state(0, 1 << 18, ElementType.BFLOAT16)
    payload = codec("planes-zstd").encode(block, ElementType.BFLOAT16).payload
    assert block.nbytes / len(payload) >= 1.5


def test_every_pattern_of_bits_comes_back():
    """Inf, every NaN, -0 and the denormal numbers included."""
    every = np.arange(1 << 16, dtype=np.uint16)
    for name in names():
        out = np.zeros_like(every)
        payload = codec(name).encode(every, ElementType.BFLOAT16).payload
        codec(name).decode(payload, ElementType.BFLOAT16, out)
        assert np.array_equal(out, every)


def test_the_wire_names_exactly_these_codecs():
    assert {wire.wire_name for wire in WireCodec} == set(names())


def mutated(good, dice):
    """Cut short, grown or with bytes changed, most often in the head."""
    bad = bytearray(good)
    if dice.random() < 0.3:
        del bad[dice.randrange(len(bad)) :]
    elif dice.random() < 0.1:
        bad += dice.randbytes(dice.randrange(1, 9))
    for _ in range(dice.randrange(1, 4)):
        if bad:
            at = dice.randrange(min(len(bad), dice.choice([16, len(bad)])))
            bad[at] = dice.randrange(256)
    return bytes(bad)


def fuzz(name, element, count):
    """Decode so many mutations; how many were refused. Guards beside the array stay as they are."""
    dice = random.Random(f"{name} {element}")
    block = state(1, 1024, element)
    good = codec(name).encode(block, element).payload
    guarded, refused = np.full(1024 + 128, 7, block.dtype), 0
    out = guarded[64:-64]
    for _ in range(count):
        try:
            codec(name).decode(mutated(good, dice), element, out)
        except PackError:
            refused += 1
        else:
            assert name in names() or np.isfinite(as_floats(out)).all()
    assert (guarded[:64] == 7).all()
    assert (guarded[-64:] == 7).all()
    return refused


def as_floats(array):
    return (array.astype(np.uint32) << 16).view(np.float32) if array.itemsize == 2 else array


@pytest.mark.parametrize("element", list(ElementType))
@pytest.mark.parametrize("name", [*names(), *lossy_names()])
def test_fuzzed_payloads_are_refused_or_decode_to_the_declared_size(name, element):
    assert FUZZED // 5 < fuzz(name, element, FUZZED) < FUZZED


@pytest.mark.nightly
@pytest.mark.parametrize("element", list(ElementType))
@pytest.mark.parametrize("name", [*names(), *lossy_names()])
def test_many_more_fuzzed_payloads(name, element):
    assert fuzz(name, element, 50 * FUZZED) > 0


def test_a_lying_frame_is_refused_before_it_is_unpacked():
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 24))
    payload = b"\x02\x01" + len(bomb).to_bytes(4, "little") + b"\x00" + (4).to_bytes(4, "little")
    out = np.zeros(4, np.uint16)
    with pytest.raises(PackError, match="declares 16777216 bytes, expected 4"):
        codec("planes-zstd").decode(payload + bomb + b"abcd", ElementType.BFLOAT16, out)


def test_wrong_arrays_and_names_are_refused():
    with pytest.raises(PackError, match="unknown"):
        codec("zip")
    with pytest.raises(PackError, match="expected"):
        codec("raw").encode(np.zeros(4, np.float64), ElementType.FLOAT32)
    with pytest.raises(PackError, match="expected 8"):
        codec("raw").decode(b"12", ElementType.BFLOAT16, np.zeros(4, np.uint16))
