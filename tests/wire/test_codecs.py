"""Codecs on the wire: one a tensor, allowed by the policy, with a bound that can be true."""

from dataclasses import replace
from functools import cached_property
from math import inf, nan

import numpy as np
import prefill_wire.manifest
import pytest
from prefill_kernels.pack import ElementType, codec, lossless_names
from prefill_wire.codecs import Codec, choose
from prefill_wire.errors import IdentityError, IntegrityError, UnsupportedCodec, WireError
from prefill_wire.expected import ExpectedState
from prefill_wire.receiver import StateReceiver
from prefill_wire.tensors import TensorKind
from recorded_exchange import Coding

KINDS = (TensorKind.LATENT_KV, TensorKind.RECURRENT, TensorKind.CONV)


def coding_of(code, real):
    """Every tensor by one codec; `real`: as that codec does it."""
    kind = Packed if real else Coding
    return kind("compact", dict.fromkeys(TensorKind, (code, 0.0)))


class Packed(Coding):
    """The real codecs, on values that a state may have: codecs refuse Inf and NaN."""

    @cached_property
    def sent(self):
        return {}

    def encode(self, code, spec, rows):
        bits = rows.dtype == np.uint16  # of a bfloat16; without its exponent's highest, at most 2
        tame = rows & 0xBFFF if bits else np.sin(rows.view("<u4").astype("<f4"))
        self.sent[spec.key, spec.token_start] = tame
        coded = codec(code.wire_name).encode(tame, ElementType(spec.dtype))
        return coded.payload, coded.error_bound

    def decode(self, code, payload, spec, out):
        codec(code.wire_name).decode(payload, ElementType(spec.dtype), out)


def values(array):
    """float64 of a tensor's elements."""
    bits = array.astype("<u4") << 16 if array.dtype == np.uint16 else array
    return bits.view("<f4").astype(float)


def play(exchange, receiver, now_ms):
    for chunk in exchange.chunks:
        receiver.accept(chunk.header, chunk.ciphertext)
    done = exchange.finished
    return receiver.close(done.sealed_manifest, done.receipt, now_ms)


def refused(exchange, receiver, now_ms, error=WireError):
    with pytest.raises(error):
        play(exchange, receiver, now_ms)
    assert not any(np.any(array) for array in receiver._buffers.arrays.values())


@pytest.mark.parametrize("code", list(Codec))
def test_every_codec_goes_both_ways_within_the_bound_that_the_manifest_tells(make, now_ms, code):
    exchange = make(coding=coding_of(code, real=True))
    state = play(exchange, exchange.receiver(), now_ms)
    for tensor in state.manifest.tensors:
        key, sent = tensor.spec.key, exchange.coding.sent
        parts = [part for (of, _), part in sorted(sent.items()) if of == key]
        error = np.abs(values(state.tensors[key]) - values(np.concatenate(parts))).max()
        assert tensor.codec is code
        assert error <= tensor.error_bound
        assert (tensor.error_bound == 0.0) or not code.lossless


def test_lossless_is_what_pack_says():
    assert {code.wire_name for code in Codec if code.lossless} == set(lossless_names())


def test_a_kind_is_of_the_part_that_policies_name():
    assert [kind.part for kind in TensorKind] == ["kv", "kv", "recurrent", "conv"]


def test_the_first_codec_that_the_other_side_decodes_is_chosen():
    assert choose(["int8-row", "raw"], ("raw", "planes-zstd")) is Codec.RAW
    with pytest.raises(UnsupportedCodec):
        choose(["int8-row", "raw"], ("planes-zstd",))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bound", [nan, inf, -1e-9, 1e32])
def test_a_bound_that_no_encoder_finds_is_refused(make, now_ms, kind, bound):
    coding = coding_of(Codec.INT8_ROW, real=False)
    exchange = make(coding=coding, told={kind: bound})
    refused(exchange, exchange.receiver(), now_ms, IntegrityError)


@pytest.mark.parametrize("code", [Codec.RAW, Codec.PLANES_ZSTD])
def test_a_lossless_codec_with_an_error_is_refused(make, now_ms, code):
    exchange = make(coding=coding_of(code, real=False), told={TensorKind.CONV: 1e-9})
    refused(exchange, exchange.receiver(), now_ms, IntegrityError)


def test_without_the_check_a_lying_bound_gets_through(make, mixed, now_ms, monkeypatch):
    monkeypatch.setattr(prefill_wire.manifest, "_check_bound", lambda tensor: None)
    exchange = make(coding=mixed, told={TensorKind.LATENT_KV: nan})
    assert play(exchange, exchange.receiver(), now_ms)


@pytest.mark.parametrize("kind", KINDS)
def test_a_codec_that_the_policy_does_not_allow_for_this_kind_is_refused(make, mixed, now_ms, kind):
    """A worker that signs what it likes: the codec was offered, though for other tensors."""
    swapped = replace(mixed, of={**mixed.of, kind: (Codec.BF16, 0.5)})
    exchange = make(coding=swapped)
    changes = {"allowed_codecs": mixed.allowed, "offered_codecs": swapped.offered}
    refused(exchange, exchange.receiver(**changes), now_ms, UnsupportedCodec)


class Lenient(ExpectedState):
    def check_codec(self, kind, code):
        pass


def test_without_the_check_a_codec_of_another_kind_gets_through(make, mixed, now_ms):
    swapped = replace(mixed, of={**mixed.of, TensorKind.CONV: (Codec.BF16, 0.5)})
    exchange = make(coding=swapped)
    fields = {name: getattr(exchange.expected, name) for name in ExpectedState.__slots__}
    lenient = Lenient(**{**fields, "allowed_codecs": mixed.allowed})
    assert play(exchange, StateReceiver(lenient, exchange.keys, mixed.decode), now_ms)


def test_a_state_under_another_policy_is_refused(make, mixed, now_ms):
    exchange = make(coding=mixed)
    refused(exchange, exchange.receiver(codec_policy="compact"), now_ms, IdentityError)


def test_a_chunk_coded_otherwise_than_its_tensor_is_refused(make, mixed, now_ms):
    """A worker that falls back for one chunk; the codec is allowed, but is not the tensor's."""

    class FallingBack(Coding):
        offered = tuple(code.wire_name for code in Codec)

        def code(self, spec):
            return Codec.RAW if spec.token_end == 2 else super().code(spec)

    allowed = dict.fromkeys(TensorKind, FallingBack.offered)
    exchange = make(coding=FallingBack(mixed.policy, dict(mixed.of)))
    receiver = exchange.receiver(allowed_codecs=allowed)
    codecs = {c.header.codec for c in exchange.chunks if c.header.kind is TensorKind.LATENT_KV}
    assert codecs == {Codec.RAW, Codec.INT8_ROW}
    refused(exchange, receiver, now_ms, IntegrityError)
