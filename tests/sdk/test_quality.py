"""Codec policies in the SDK: which one is asked for, what it is held to, what `auto` knows."""

import numpy as np
import pytest
from counting_engine import CountingEngine
from loopback_cloud import IDENTITY, SCHEMA, random_state
from prefill_cloud import PrefillCloudError
from prefill_cloud.decode.local import LocalEngine
from prefill_cloud.errors import IntegrityFailureError, InvalidRequestError
from prefill_cloud.link import LinkEstimate
from prefill_cloud.quality import allowed_codecs, policy_of_answer
from prefill_kernels.pack.policy import POLICY_NAMES
from prefill_wire.codecs import Codec
from prefill_wire.expected import ExpectedState
from prefill_wire.status import StatusCode
from prefill_wire.tensors import TensorKind

TOKENS = list(range(12))


async def prefill(client, **options):
    return await client.prefill(TOKENS, IDENTITY, SCHEMA, deadline_seconds=10.0, **options)


@pytest.mark.parametrize("policy", POLICY_NAMES)
async def test_a_state_tells_its_policy_its_codecs_and_its_bounds(cloud, connect, policy):
    async with connect(cloud) as client:
        state = await prefill(client, codec_policy=policy)
    assert cloud.only.opened.codec_policy == state.codec_policy == policy
    for (_, kind), name in state.codecs.items():
        assert name == allowed_codecs(policy)[kind][0]
    for key, array in random_state(TOKENS).items():
        bits = [each.astype("<u4") << 16 if each.dtype == np.uint16 else each
                for each in (array, state.tensors[key])]  # fmt: skip
        sent, got = (each.view("<f4").astype(float) for each in bits)
        assert np.abs(got - sent).max() <= state.error_bounds[key]


async def test_a_client_without_a_policy_asks_for_near_lossless(cloud, connect):
    async with connect(cloud, codec_policy=None) as client:
        state = await prefill(client)
    assert state.codec_policy == "near-lossless"


async def test_a_policy_that_does_not_exist_is_refused_before_anything_is_sent(cloud, connect):
    for make in (lambda: connect(cloud, codec_policy="best"),):
        with pytest.raises(InvalidRequestError, match="codec_policy is 'best', not one of exact"):
            make()
    async with connect(cloud) as client:
        with pytest.raises(InvalidRequestError, match="not one of exact"):
            await prefill(client, codec_policy="best")
    assert cloud.calls["Open"] == 0


@pytest.mark.parametrize(
    ("asked", "clients", "repeatable", "wanted"),
    [
        (None, None, True, "exact"),
        (None, None, False, "near-lossless"),
        (None, "compact", True, "compact"),
        (None, "compact", False, "compact"),
        ("exact", "compact", False, "exact"),
        ("compact", None, True, "compact"),
    ],
)
def test_an_answer_that_must_be_repeatable_is_exact_unless_told_otherwise(
    asked, clients, repeatable, wanted
):
    assert policy_of_answer(asked, clients, repeatable=repeatable) == wanted


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, "exact"),
        ({"temperature": 1.0, "seed": 3}, "exact"),
        ({"temperature": 1.0}, "near-lossless"),
        ({"codec_policy": "compact"}, "compact"),
    ],
)
async def test_greedy_and_seeded_answers_come_from_exact_states(cloud, connect, options, wanted):
    async with connect(cloud, codec_policy=None) as client:
        session = client.session(CountingEngine())
        result = await session.generate(TOKENS, max_new_tokens=2, **options)
    assert result.codec_policy == cloud.only.opened.codec_policy == wanted


async def test_a_codec_that_was_swapped_is_refused_and_nothing_is_left(cloud, connect):
    """A worker that signs a coarser codec than the policy allows for caches."""
    cloud.faults.codes = {TensorKind.LATENT_KV: Codec.HADAMARD_INT4}
    buffers = {s.key: np.zeros(s.shape, s.dtype.numpy_name) for s in SCHEMA.tensors(11)}
    async with connect(cloud) as client:
        with pytest.raises(PrefillCloudError) as caught:
            await prefill(client, codec_policy="near-lossless", buffers=buffers)
    assert caught.value.code is StatusCode.UNSUPPORTED_CODEC
    assert not any(array.any() for array in buffers.values())
    assert cloud.calls["Claim"] == 0


async def test_without_the_check_a_swapped_codec_gets_through(cloud, connect, monkeypatch):
    monkeypatch.setattr(ExpectedState, "check_codec", lambda self, kind, code: None)
    cloud.faults.codes = {TensorKind.LATENT_KV: Codec.HADAMARD_INT4}
    async with connect(cloud) as client:
        state = await prefill(client, codec_policy="near-lossless")
    assert "hadamard-int4" in state.codecs.values()


@pytest.mark.parametrize("bound", [float("nan"), float("inf"), -1.0])
async def test_a_bound_that_cannot_be_is_refused(cloud, connect, bound):
    cloud.faults.bounds = {TensorKind.RECURRENT: bound}
    async with connect(cloud) as client:
        with pytest.raises(IntegrityFailureError, match="cannot have an error"):
            await prefill(client, codec_policy="near-lossless")


async def test_only_auto_tells_the_link_and_only_once_it_is_known(cloud, connect):
    long = list(range(20_000))
    async with connect(cloud) as client:
        cloud.rows_a_chunk = 4_000
        for policy in ("auto", "auto", "exact"):
            await client.prefill(long, IDENTITY, SCHEMA, deadline_seconds=30.0, codec_policy=policy)
    links = [each.opened.link_bytes_per_second for each in cloud.attempts.values()]
    assert links[0] == links[2] == 0
    assert links[1] > 0


def test_the_best_of_the_last_downloads_is_the_link():
    link = LinkEstimate()
    assert link.bytes_per_second == 0
    link.measured(1 << 20, 0.0)
    link.measured(100, 1e-9)
    assert link.bytes_per_second == 0
    for seconds in (1.0, 4.0, 2.0):
        link.measured(1 << 20, seconds)
    assert link.bytes_per_second == 1 << 20
    for _ in range(8):
        link.measured(1 << 20, 2.0)
    assert link.bytes_per_second == 1 << 19


async def test_an_exact_answer_never_continues_a_rounded_state(cloud, connect):
    """What a rounded state has become is a prefix for rounded answers alone."""

    class Engine:
        step_tokens, vocab_size, max_tokens = 4, 1_000, 100

        def load_state(self, covered, tensors, capacity):
            return covered

        def position(self, handle):
            return handle

        def close(self, handle):
            pass

    tokens = np.arange(12, dtype=np.uint32)
    for policy, kept in (("near-lossless", 0), ("exact", 11)):
        async with connect(cloud) as client:
            state = await prefill(client, codec_policy=policy)
        engine = LocalEngine(Engine())
        engine.close(engine.load(state, tokens, 20))
        assert engine.prefix(tokens, 20, exact=True) == kept
        assert engine.prefix(tokens, 20, exact=False) == 11
