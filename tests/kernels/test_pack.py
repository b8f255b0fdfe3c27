"""Codecs: lossless ones give every bit back, and nothing else is ever written."""

import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import codec_fuzz
import numpy as np
import pytest
import zstandard
from codec_fuzz import ITEMS, TARGETS, Decoder, fuzz, mutated
from hypothesis import given
from hypothesis import strategies as st
from prefill_kernels.pack import (
    ElementType,
    PackError,
    codec,
    lossless_names,
    max_payload_bytes,
    names,
)
from prefill_wire.codecs import Codec as WireCodec

FUZZED = 100_000 // len(TARGETS) + 1


def state(seed, items, element):
    random_numbers = np.random.default_rng(seed).standard_normal(items).astype(np.float32)
    if element is ElementType.FLOAT32:
        return random_numbers
    return (random_numbers.view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize("name", lossless_names())
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
    for name in lossless_names():
        out = np.zeros_like(every)
        payload = codec(name).encode(every, ElementType.BFLOAT16).payload
        codec(name).decode(payload, ElementType.BFLOAT16, out)
        assert np.array_equal(out, every)


def test_the_wire_names_exactly_these_codecs():
    assert {wire.wire_name for wire in WireCodec} == set(names())


def called(target):
    return f"{target.name}-{target.element.name}-{'native' if target.native else 'numpy'}"


@pytest.mark.parametrize("target", TARGETS, ids=called)
def test_fuzzed_payloads_are_refused_or_decode_to_the_declared_size(target):
    assert FUZZED // 5 < fuzz(Decoder(target), FUZZED) < FUZZED


def test_the_fuzzer_sees_a_decoder_that_writes_beyond_its_array(monkeypatch):
    decoder = Decoder(TARGETS[0])

    class Careless:
        def decode(self, payload, element, out):
            out.base[-1] = 0

    monkeypatch.setattr(codec_fuzz, "codec", lambda name: Careless())
    with pytest.raises(AssertionError):
        decoder.refuses(decoder.good)


@pytest.mark.parametrize("target", TARGETS, ids=called)
def test_refusals_allocate_no_more_than_the_array(target):
    """A payload's own fields ask for up to 4 GiB; 16 KiB are left for what is small and fixed."""
    decoder, dice = Decoder(target), random.Random(7)
    payloads = [mutated(decoder.good, dice) for _ in range(300)]
    decoder.refuses(payloads[0])
    tracemalloc.start()
    try:
        for payload in payloads:
            decoder.refuses(payload)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= 16 * 4 * ITEMS + (16 << 10)


LONG = {  # what runs, how often, in which surroundings
    "codec_atheris.py": (10_000_000, dict),
    "codec_fuzz.py": (100_000, codec_fuzz.sanitizer_environment),
}


@pytest.mark.nightly
@pytest.mark.parametrize("script", list(LONG))
def test_the_long_form_finds_nothing(script):
    if script == "codec_atheris.py":
        pytest.importorskip("atheris")
    runs, environment = LONG[script]
    command = [sys.executable, str(Path(codec_fuzz.__file__).with_name(script)), str(runs)]
    done = subprocess.run(command, env=environment() or None, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "runs in" in done.stdout + done.stderr


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
