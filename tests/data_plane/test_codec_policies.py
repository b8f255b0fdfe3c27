"""From worker to SDK under every policy: exact to the bit, else within what the manifest signed."""

from itertools import count

import numpy as np
import pytest
from hand_client import TOKENS
from in_process_cloud import SPEEDS, Cloud
from prefill_cloud import PrefillCloudError
from prefill_data.errors import DataPlaneError
from prefill_data.worker import sealer
from prefill_data.worker.codecs import CodecWish, choose_codecs, measure_speeds
from prefill_data.worker.sealer import cut
from prefill_engine.engine import Piece
from prefill_kernels.pack import ElementType, codec
from prefill_kernels.pack.policy import POLICIES, StatePart, allowed, decodable
from prefill_wire.buffers import StateBuffers
from prefill_wire.chunks import ChunkHeader, KeyClass, Role
from prefill_wire.codecs import Codec
from prefill_wire.limits import MAX_CHUNK_BYTES
from prefill_wire.status import StatusCode
from prefill_wire.tensors import (
    PER_TOKEN,
    Dtype,
    LayerState,
    Layout,
    StateSchema,
    TensorKind,
    TensorSpec,
)
from stand_in_backend import IDENTITY, StandInBackend

SCHEMA = StateSchema(
    (
        LayerState(0, TensorKind.RECURRENT, Dtype.FLOAT32, Layout.K_FIRST, (2, 64, 64), 2),
        LayerState(0, TensorKind.CONV, Dtype.FLOAT32, Layout.CHANNEL_MAJOR, (192, 3), 1),
        LayerState(1, TensorKind.LATENT_KV, Dtype.BFLOAT16, Layout.TOKEN_MAJOR, (96,), 1),
    )
)


def ordinary(tokens, schema=SCHEMA):
    """A state that a model may have: the rows grow along the prompt."""
    rng, state = np.random.default_rng(np.asarray(tokens, np.uint32)), {}
    for spec in schema.tensors(len(tokens) - 1):
        drawn = rng.standard_normal(spec.shape, np.float32)
        if spec.dtype is Dtype.BFLOAT16:
            drawn = (drawn.view("<u4") >> 16).astype("<u2")
        state[spec.key] = drawn
    return state


def values(array):
    bits = array.astype("<u4") << 16 if array.dtype == np.uint16 else array
    return bits.view("<f4").astype(float)


@pytest.fixture
async def plain(tmp_path):
    async with Cloud(tmp_path, StandInBackend(SCHEMA, state_of=ordinary)) as running:
        yield running


def assert_within_bounds(state, tokens=TOKENS):
    for key, tensor in ordinary(tokens).items():
        error = np.abs(values(state.tensors[key]) - values(tensor)).max()
        assert error <= state.error_bounds[key], key


@pytest.mark.parametrize("policy", [*POLICIES, "auto"])
async def test_every_policy_arrives_within_its_bounds(plain, policy):
    async with plain.client() as client:
        state = await client.prefill(
            TOKENS, IDENTITY, SCHEMA, deadline_seconds=60, codec_policy=policy
        )
    assert state.codec_policy == policy
    for (_, kind), name in state.codecs.items():
        assert name == allowed(policy, StatePart(kind.part))[0]
    assert_within_bounds(state)
    assert any(state.error_bounds.values()) == (policy != "exact")
    assert state.exact == (policy == "exact")
    assert state.receipt.state_bytes_sent == state.bytes_sent


async def test_rounded_states_are_smaller(plain):
    sent = {}
    async with plain.client() as client:
        for policy in POLICIES:
            state = await client.prefill(
                TOKENS, IDENTITY, SCHEMA, deadline_seconds=60, codec_policy=policy
            )
            sent[policy] = state.bytes_sent
    assert sent["exact"] > sent["near-lossless"] > sent["compact"]


async def test_the_bounds_are_those_of_the_state_that_was_sent(plain):
    """The twin: another prompt's state lies beyond them."""
    async with plain.client() as client:
        state = await client.prefill(
            TOKENS, IDENTITY, SCHEMA, deadline_seconds=60, codec_policy="compact"
        )
    with pytest.raises(AssertionError):
        assert_within_bounds(state, np.flip(TOKENS))


async def test_a_state_that_a_codec_cannot_hold_ends_the_attempt(tmp_path):
    """No other codec is taken for such a chunk; asked for exactly, the same state arrives."""

    def with_infinity(tokens, schema):
        state = ordinary(tokens)
        state[0, TensorKind.RECURRENT][1, 2, 3] = np.inf
        return state

    backend = StandInBackend(SCHEMA, state_of=with_infinity)
    async with Cloud(tmp_path, backend) as cloud, cloud.client() as client:
        for policy in ("near-lossless", "compact", "auto"):
            with pytest.raises(PrefillCloudError) as caught:
                await client.prefill(
                    TOKENS, IDENTITY, SCHEMA, deadline_seconds=60, codec_policy=policy
                )
            assert caught.value.falls_back
        assert cloud.receipts == []
        state = await client.prefill(TOKENS, IDENTITY, SCHEMA, deadline_seconds=60)
    assert state.tensors[0, TensorKind.RECURRENT][1, 2, 3] == np.inf


def wish(policy="near-lossless", offered=None, link=0, permitted=()):
    offered = decodable(policy) if offered is None else offered
    return CodecWish(
        policy=policy, offered=offered, permitted=permitted, link_bytes_per_second=link
    )


def test_a_kind_gets_the_first_codec_of_its_policy_that_is_offered():
    assert choose_codecs(wish("exact"), SPEEDS) == dict.fromkeys(TensorKind, Codec.PLANES_ZSTD)
    assert choose_codecs(wish("compact", ("raw",)), SPEEDS)[TensorKind.KV] is Codec.RAW


@pytest.mark.parametrize("of", [wish("exact", ("int8-row",)), wish("auto", ())])
def test_an_offer_that_the_policy_has_no_use_for_is_refused(of):
    with pytest.raises(DataPlaneError) as caught:
        choose_codecs(of, SPEEDS)
    assert caught.value.code is StatusCode.UNSUPPORTED_CODEC


@pytest.mark.parametrize("policy", [*POLICIES, "auto"])
@pytest.mark.parametrize("link", [0, 10**6])
def test_the_catalogue_narrows_every_policy_and_widens_none(policy, link):
    chosen = choose_codecs(wish(policy, link=link, permitted=("raw",)), SPEEDS)
    assert set(chosen.values()) == {Codec.RAW}
    with pytest.raises(DataPlaneError, match="the catalogue allows fp8-row") as caught:
        choose_codecs(wish(policy, link=link, permitted=("fp8-row",)), SPEEDS)
    assert caught.value.code is StatusCode.UNSUPPORTED_CODEC


def test_an_unknown_policy_is_refused_by_name():
    with pytest.raises(DataPlaneError, match="'best' is unknown, there are exact"):
        choose_codecs(wish("best", ("raw",)), SPEEDS)


def test_auto_sends_raw_over_a_fast_link_and_the_smallest_over_a_slow_one():
    fast, slow = (choose_codecs(wish("auto", link=link), SPEEDS) for link in (10**14, 10**6))
    assert set(fast.values()) == {Codec.RAW}
    for kind, code in slow.items():
        part = StatePart(kind.part)
        sizes = {n: SPEEDS[part][n].ratio for n in allowed("auto", part) if n in SPEEDS[part]}
        assert sizes[code.wire_name] == max(sizes.values())


def test_auto_without_a_measured_link_is_near_lossless():
    assert choose_codecs(wish("auto"), SPEEDS) == choose_codecs(wish("near-lossless"), SPEEDS)


def test_auto_keeps_to_the_codecs_that_are_offered():
    chosen = choose_codecs(wish("auto", ("planes-zstd",), link=10**14), SPEEDS)
    assert set(chosen.values()) == {Codec.PLANES_ZSTD}


def test_every_codec_of_a_policy_is_measured_for_every_part():
    ticks = count()
    speeds = measure_speeds(lambda: next(ticks))
    for part in StatePart:
        for policy in POLICIES:
            assert set(allowed(policy, part)) <= set(speeds[part])
        assert all(speed.encode_bytes_per_second > 0 for speed in speeds[part].values())
        assert all(speed.ratio > 0.9 for speed in speeds[part].values())


@pytest.mark.parametrize(
    ("kind", "dtype", "shape", "heads"),
    [
        (TensorKind.LATENT_KV, Dtype.BFLOAT16, (10_000, 576), 1),
        (TensorKind.KV, Dtype.FLOAT32, (3_000, 8, 128), 8),
        (TensorKind.RECURRENT, Dtype.FLOAT32, (96, 128, 128), 96),
        (TensorKind.CONV, Dtype.FLOAT32, (4 * 98_304, 3), 4),
    ],
)
def test_no_chunk_tears_a_row_or_a_matrix(kind, dtype, shape, heads):
    """A codec sees a chunk alone: what shares a scale has to be whole in it."""
    grows = kind in PER_TOKEN
    tokens = shape[0] if grows else 7
    spec = TensorSpec(3, kind, dtype, Layout.K_FIRST, shape, 0, tokens, 0, heads)
    parts = list(cut(Piece(spec, np.zeros(shape, dtype.numpy_name))))
    assert len(parts) > 1
    assert sum(part.nbytes for part, _ in parts) == spec.nbytes
    for part, rows in parts:
        assert rows.nbytes == part.nbytes <= MAX_CHUNK_BYTES
        assert rows.shape[1:] == shape[1:]
        assert rows.flags.c_contiguous


LAYERS = [
    LayerState(0, TensorKind.LATENT_KV, Dtype.BFLOAT16, Layout.TOKEN_MAJOR, (576,), 1),
    LayerState(0, TensorKind.LATENT_KV, Dtype.FLOAT32, Layout.TOKEN_MAJOR, (20,), 1),
    LayerState(0, TensorKind.KV, Dtype.BFLOAT16, Layout.TOKEN_MAJOR, (2, 4, 64), 4),
    LayerState(0, TensorKind.KV, Dtype.BFLOAT16, Layout.TOKEN_MAJOR, (16, 64), 16),
    LayerState(0, TensorKind.RECURRENT, Dtype.FLOAT32, Layout.K_FIRST, (6, 32, 16), 6),
    LayerState(0, TensorKind.RECURRENT, Dtype.FLOAT32, Layout.V_FIRST, (5, 24, 40), 5),
    LayerState(0, TensorKind.CONV, Dtype.FLOAT32, Layout.CHANNEL_MAJOR, (5 * 300, 3), 5),
]


def carried(layer, code, tokens):
    """A tensor's chunks as they were cut, and as decoded where the receiver puts them."""
    spec = layer.spec(tokens)
    whole = np.random.default_rng(0).standard_normal(spec.shape, np.float32)
    whole = (whole.view("<u4") >> 16).astype("<u2") if spec.dtype is Dtype.BFLOAT16 else whole
    buffers = StateBuffers([spec])
    for part, rows in cut(Piece(spec, whole)):
        element = ElementType(spec.dtype)
        payload = codec(code.wire_name).encode(rows, element).payload
        ranges = part.token_start, part.token_end, part.head_start, part.head_end
        sizes = rows.nbytes, len(payload)
        where = spec.layer, spec.kind, spec.dtype, spec.layout, code
        header = ChunkHeader(0, Role.PIECE, KeyClass.STREAM, *where, *ranges, *sizes)
        _, out = buffers.range_of(header)
        assert out.shape == rows.shape == part.shape
        codec(code.wire_name).decode(payload, element, out)
        yield rows, out


@pytest.mark.parametrize("layer", LAYERS, ids=lambda each: f"{each.kind.name}-{each.row_shape}")
@pytest.mark.parametrize("code", list(Codec), ids=lambda code: code.wire_name)
def test_a_decoder_sees_the_shape_that_the_encoder_saw(layer, code, monkeypatch):
    """Rows and matrices go by the shape of a chunk: both sides cut it alike, whatever its size."""
    monkeypatch.setattr(sealer, "MAX_CHUNK_BYTES", 9_000)
    chunks = list(carried(layer, code, 200))
    assert len(chunks) > 1
    for rows, out in chunks:
        worst = np.abs(values(rows) - values(out)).max()
        assert worst <= (1.0 if code.wire_name == "hadamard-int4" else 0.2)
