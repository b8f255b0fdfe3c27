"""Limits come before allocation; what is newer than this code is refused by its name."""

import contextlib
import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import prefill_wire.receiver
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefill_wire import chunks, codecs
from prefill_wire.capability import Capability, issue_capability, verify_capability
from prefill_wire.chunks import (
    HEADER_BYTES,
    LEAF_BYTES,
    ChunkHeader,
    KeyClass,
    Role,
    leaf_table,
)
from prefill_wire.codecs import Codec
from prefill_wire.errors import (
    IdentityError,
    IntegrityError,
    LimitExceeded,
    MalformedFrame,
    UnsupportedCodec,
    UnsupportedTensorKind,
    UnsupportedVersion,
    WireError,
)
from prefill_wire.framing import FrameDecoder, FrameType
from prefill_wire.ids import check_id, new_request_id
from prefill_wire.limits import (
    MAX_CHUNK_BYTES,
    MAX_CHUNKS,
    MAX_FRAME_BYTES,
    MAX_LEAF_TABLE_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_PROMPT_TOKENS,
    MAX_RECEIPT_BYTES,
    MAX_TENSORS,
)
from prefill_wire.manifest import sign_manifest, verify_manifest
from prefill_wire.pb import prefill_pb2
from prefill_wire.receipt import UsageReceipt, sign_receipt, verify_receipt
from prefill_wire.signing import SigningKey, verify_document
from prefill_wire.tensors import Dtype, Layout, TensorKind

KEY = SigningKey.from_seed(bytes(32))
HEADER = ChunkHeader(
    0, Role.PIECE, KeyClass.STREAM, 3, TensorKind.LATENT_KV, Dtype.BFLOAT16, Layout.TOKEN_MAJOR,
    Codec.RAW, 0, 64, 0, 1, 1536, 1536,
)  # fmt: skip


def packed(**changes):
    """A header with fields that `ChunkHeader` itself would not hold."""
    names = ["version", *ChunkHeader.__slots__]
    values = dict(zip(names, chunks._HEADER.unpack(HEADER.encode()), strict=True))
    return chunks._HEADER.pack(*(values | changes).values())


def table_of(leaves, **changes):
    """What makes it the header of a leaf table of so many chunks."""
    size = LEAF_BYTES * leaves
    usual = {"role": Role.LEAF_TABLE, "index": leaves, "raw_bytes": size, "payload_bytes": size}
    return usual | changes


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"version": 2}, UnsupportedVersion),
        ({"codec": 200}, UnsupportedCodec),
        ({"kind": 9}, UnsupportedTensorKind),
        ({"dtype": 9}, IntegrityError),
        ({"layout": 9}, IntegrityError),
        ({"role": 9}, IntegrityError),
        ({"key_class": 9}, IntegrityError),
        ({"role": Role.LEAF_TABLE, "key_class": KeyClass.CLOSE}, IntegrityError),
        ({"index": MAX_CHUNKS}, LimitExceeded),
        ({"raw_bytes": MAX_CHUNK_BYTES + 1}, LimitExceeded),
        ({"payload_bytes": MAX_PAYLOAD_BYTES + 1}, LimitExceeded),
        ({"raw_bytes": 2**64 - 1}, LimitExceeded),
        ({"role": Role.LEAF_TABLE, "raw_bytes": MAX_LEAF_TABLE_BYTES + 1}, LimitExceeded),
        (table_of(5, raw_bytes=5 * LEAF_BYTES + 1), LimitExceeded),
        (table_of(5, payload_bytes=5 * LEAF_BYTES + 1), LimitExceeded),
        ({"token_end": MAX_PROMPT_TOKENS + 1}, LimitExceeded),
        ({"token_start": 65}, LimitExceeded),
        ({"head_start": 2}, LimitExceeded),
    ],
    ids=lambda value: "" if isinstance(value, type) else "-".join(value),
)
def test_a_header_beyond_limits_or_newer_is_refused(change, error):
    assert ChunkHeader.decode(packed()) == HEADER
    with pytest.raises(error) as caught:
        ChunkHeader.decode(packed(**change))
    assert caught.value.remedy


def test_a_leaf_table_has_as_many_bytes_as_its_leaves():
    leaves = [(HEADER.encode(), bytes([n]) * 32) for n in range(5)]
    assert len(leaf_table(leaves)) == 5 * LEAF_BYTES
    assert ChunkHeader.decode(packed(**table_of(5))).payload_bytes == 5 * LEAF_BYTES


def test_a_header_of_another_size_is_no_header():
    for size in (0, HEADER_BYTES - 1, HEADER_BYTES + 1):
        with pytest.raises(MalformedFrame):
            ChunkHeader.decode(bytes(size))


def test_a_declared_length_allocates_nothing():
    """Five bytes that announce 128 MiB or 4 GiB cost the receiver less than a page of each."""
    tracemalloc.start()
    try:
        decoder = FrameDecoder(frozenset({FrameType.CHUNK}))
        assert decoder.feed(struct.pack("<IB", MAX_FRAME_BYTES, FrameType.CHUNK)) == []
        with pytest.raises(LimitExceeded):
            FrameDecoder(frozenset({FrameType.CHUNK})).feed(
                struct.pack("<IB", 2**32 - 1, FrameType.CHUNK)
            )
        assert tracemalloc.get_traced_memory()[1] < 64 << 10
    finally:
        tracemalloc.stop()


def test_a_document_beyond_its_limit_is_not_parsed(monkeypatch):
    signed = KEY.sign("state manifest", bytes(MAX_MANIFEST_BYTES))

    def parse(_data):
        raise AssertionError("parsed before its size was judged")

    monkeypatch.setattr("prefill_wire.signing.prefill_pb2.SignedDocument.FromString", parse)
    with pytest.raises(LimitExceeded):
        verify_manifest(KEY.public_bytes, signed)
    with pytest.raises(LimitExceeded):
        verify_receipt(KEY.public_bytes, bytes(MAX_RECEIPT_BYTES + 1))
    with pytest.raises(AssertionError):
        verify_document(KEY.public_bytes, "any", b"small", 10)


def signed_manifest(**fields):
    complete = {"wire_version": 1, "close_key": bytes(32)} | fields
    message = prefill_pb2.StateManifest(**complete)
    return KEY.sign("state manifest", message.SerializeToString())


def entry(**changes):
    fields = {"kind": 1, "dtype": 1, "layout": 1, "codec": 0, "shape": [2, 2]} | changes
    return prefill_pb2.TensorEntry(**fields)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"wire_version": 2}, UnsupportedVersion),
        ({"tensors": [entry(kind=77)]}, UnsupportedTensorKind),
        ({"tensors": [entry(codec=77)]}, UnsupportedCodec),
        ({"tensors": [entry(dtype=77)]}, IntegrityError),
        ({"tensors": [entry(shape=[1] * 9)]}, LimitExceeded),
        ({"tensors": [entry()] * (MAX_TENSORS + 1)}, LimitExceeded),
        ({"close_key": bytes(31)}, IntegrityError),
    ],
)
def test_a_manifest_beyond_limits_or_newer_is_refused(fields, error):
    verify_manifest(KEY.public_bytes, signed_manifest(tensors=[entry()] * MAX_TENSORS))
    with pytest.raises(error):
        verify_manifest(KEY.public_bytes, signed_manifest(**fields))


def test_codecs_are_chosen_in_the_order_offered():
    assert codecs.choose(["lossy-9", "planes-zstd", "raw"], ["raw", "planes-zstd"]) == 1
    with pytest.raises(UnsupportedCodec):
        codecs.choose(["lossy-9"], ["raw"])
    with pytest.raises(UnsupportedCodec):
        codecs.codec_by_name("lossy-9")


def take_all(receiver, exchange, now_ms):
    for chunk in exchange.chunks:
        receiver.accept(chunk.header, chunk.ciphertext)
    return receiver.close(exchange.finished.sealed_manifest, exchange.finished.receipt, now_ms)


def test_a_decoder_that_fails_leaves_zeroes(make, now_ms):
    """A codec's own exception, in the stream or in the closing set, refuses the whole state."""
    exchange = make()
    for fails_at in (0, 3):
        calls = []

        def decode(codec, payload, spec, out, calls=calls, fails_at=fails_at):
            calls.append(spec)
            out[...] = np.frombuffer(payload, out.dtype).reshape(out.shape)
            if len(calls) > fails_at:
                raise ArithmeticError("the codec's own error")

        receiver = prefill_wire.receiver.StateReceiver(exchange.expected, exchange.keys, decode)
        with pytest.raises(IntegrityError, match="does not decode"):
            take_all(receiver, exchange, now_ms)
        assert len(calls) == fails_at + 1
        assert not any(np.any(array) for array in receiver._buffers.arrays.values())


def test_buffers_must_have_the_schemas_shapes_and_types(make):
    exchange = make()
    specs = exchange.expected.schema.tensors(exchange.expected.token_count - 1)

    def receiver(change):
        buffers = {spec.key: np.zeros(spec.shape, spec.dtype.numpy_name) for spec in specs}
        key = specs[0].key
        buffers[key] = change(buffers[key])
        return prefill_wire.receiver.StateReceiver(
            exchange.expected, exchange.keys, lambda *_: None, buffers
        )

    receiver(lambda array: array)
    for change in (
        lambda array: array.astype("<i4"),
        lambda array: array[:1],
        lambda array: np.asfortranarray(array),
    ):
        with pytest.raises(IdentityError):
            receiver(change)


def test_ids_are_checked_by_kind():
    known = new_request_id(lambda count: bytes(range(count)))
    assert check_id(known, "req") == known
    for wrong in ("", "req_", known + "0", known.replace("req", "rcp"), known[:-1] + "u"):
        with pytest.raises(WireError):
            check_id(wrong, "req")


U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
TEXT = st.text(max_size=40)


@given(
    st.builds(
        ChunkHeader,
        index=st.integers(0, MAX_CHUNKS - 1),
        role=st.just(Role.PIECE),
        key_class=st.sampled_from(KeyClass),
        layer=st.integers(0, 2**16 - 1),
        kind=st.sampled_from(TensorKind),
        dtype=st.sampled_from(Dtype),
        layout=st.sampled_from(Layout),
        codec=st.sampled_from(Codec),
        token_start=st.just(0),
        token_end=st.integers(0, MAX_PROMPT_TOKENS),
        head_start=st.just(0),
        head_end=U32,
        raw_bytes=st.integers(0, MAX_CHUNK_BYTES),
        payload_bytes=st.integers(0, MAX_PAYLOAD_BYTES),
    )
)
def test_headers_round_trip(header):
    assert ChunkHeader.decode(header.encode()) == header


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_noise_is_no_header_or_its_own(noise):
    with contextlib.suppress(WireError):
        assert ChunkHeader.decode(noise).encode() == noise


@given(
    st.builds(Capability, TEXT, U32, st.just("w"), st.integers(1, 2**63), st.integers(1, 8)),
    st.binary(min_size=32, max_size=32),
)
def test_capabilities_round_trip(capability, key):
    assert verify_capability(key, issue_capability(key, capability), "w", 0) == capability


RECEIPTS = st.builds(
    UsageReceipt,
    **{
        name: {"str": TEXT, "bytes": st.binary(max_size=32)}.get(
            str(annotation), U32 if name == "attempt" else U64
        )
        for name, annotation in UsageReceipt.__annotations__.items()
    },
)


@given(RECEIPTS)
def test_receipts_round_trip(receipt):
    assert verify_receipt(KEY.public_bytes, sign_receipt(KEY, receipt)) == receipt


def test_manifests_round_trip(make, now_ms):
    exchange = make()
    manifest = take_all(exchange.receiver(), exchange, now_ms).manifest
    for change in ({}, {"attempt": 2**32 - 1, "expires_at_ms": 2**64 - 1}, {"tensors": ()}):
        changed = replace(manifest, **change)
        assert verify_manifest(KEY.public_bytes, sign_manifest(KEY, changed)) == changed
