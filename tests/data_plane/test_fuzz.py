"""Any message gets an outcome or a typed refusal: never a bare status, never INTERNAL."""

import asyncio
import logging

import grpc
import pytest
from hand_client import HandClient, detail_of, refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_process_cloud import Cloud, bearer
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import StatusCode
from stand_in_backend import IDENTITY

S = StatusCode
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
BYTES, TEXT = st.binary(max_size=80), st.text(max_size=200)
SOME_TEXT = st.one_of(TEXT, st.sampled_from(["eu", "mars", "raw", "tiny", "x" * 10_000]))
MODELS = st.builds(
    prefill_pb2.ModelIdentity,
    name=st.one_of(SOME_TEXT, st.just("tiny")),
    fingerprint=st.one_of(BYTES, st.just(IDENTITY.fingerprint)),
    tokenizer_fingerprint=st.one_of(BYTES, st.just(IDENTITY.tokenizer_fingerprint)),
    numerics_profile=st.one_of(SOME_TEXT, st.just("fp32")),
)
OPEN_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "wire_versions": st.lists(U32, max_size=40),
        "codecs": st.lists(SOME_TEXT, max_size=40),
        "model": MODELS,
        "token_count": st.one_of(U64, st.integers(0, 600)),
        "prompt_digest": BYTES,
        "block_size_tokens": U32,
        "block_hashes": st.lists(BYTES, max_size=3),
        "local_prefix_tokens": U64,
        "datacenters": st.lists(SOME_TEXT, max_size=40),
        "residency": st.lists(SOME_TEXT, max_size=40),
        "deadline_ms": U64,
        "idempotency_key": TEXT,
        "one_time_public_key": BYTES,
        "max_price_micros": U64,
    },
)
IDS = st.one_of(TEXT, st.just("req_" + "0" * 26), st.just("x" * 100_000))
CLAIMS = st.builds(
    prefill_pb2.ClaimRequest, request_id=IDS, attempt=U32, root=BYTES, chunk_count=U32
)
CANCELS = st.builds(prefill_pb2.CancelRequest, request_id=IDS, attempt=U32, reason=SOME_TEXT)
PARTS = st.lists(
    st.builds(prefill_pb2.PromptPart, request_id=IDS, attempt=U32, token_ids=BYTES), max_size=3
)
FUZZ = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LONG_FUZZ = settings(FUZZ, max_examples=800)


@pytest.fixture
def running(tmp_path, caplog):
    """A cloud and the loop it runs on."""
    with asyncio.Runner() as runner:
        cloud = Cloud(tmp_path)
        runner.run(cloud.__aenter__())
        yield runner, cloud
        runner.run(cloud.__aexit__())
    errors = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert not errors


async def typed(call):
    """The call's answer, or None for a refusal that is typed and not a fault of ours."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        detail = detail_of(error)
        assert detail.code in StatusCode.__members__
        assert detail.code != S.INTERNAL, detail.message
        assert detail.message
        assert detail.remedy
        assert len(detail.message) <= 512
        assert len(detail.request_id) <= 64
        return None


def check_open(running, changes):
    runner, cloud = running

    async def one():
        hand = HandClient(cloud)
        answer = await typed(hand.open(**changes))
        if answer is not None and answer.WhichOneof("outcome") == "accept":
            await hand.cancel()

    runner.run(one())


@FUZZ
@given(OPEN_FIELDS)
def test_any_open(running, changes):
    check_open(running, changes)


@pytest.mark.nightly
@LONG_FUZZ
@given(OPEN_FIELDS)
def test_any_open_at_length(running, changes):
    check_open(running, changes)


async def stream(parts):
    for part in parts:
        yield part


def check_others(running, messages):
    runner, cloud = running
    claim, cancel, parts = messages

    async def all_three():
        assert await typed(cloud.stub.Claim(claim, metadata=bearer())) is None
        assert await typed(cloud.stub.Cancel(cancel, metadata=bearer())) is None
        assert await typed(cloud.stub.Prompt(stream(parts), metadata=bearer())) is None

    runner.run(all_three())


@FUZZ
@given(st.tuples(CLAIMS, CANCELS, PARTS))
def test_any_claim_cancel_and_prompt(running, messages):
    check_others(running, messages)


@pytest.mark.nightly
@LONG_FUZZ
@given(st.tuples(CLAIMS, CANCELS, PARTS))
def test_any_claim_cancel_and_prompt_at_length(running, messages):
    check_others(running, messages)


async def test_the_detector_fires_on_a_fault(cloud, customer, log_lines):
    """The twin: a fault inside is INTERNAL, says nothing of the inside, and is logged whole."""

    def broken(*_):
        raise ZeroDivisionError("the inside")

    cloud.parts.fleet.serving = broken
    async with refused(S.INTERNAL) as detail:
        await customer().open()
    assert "inside" not in detail.message
    assert "the inside" in log_lines.getvalue()
    with pytest.raises(AssertionError):
        await typed(customer().open())


@pytest.mark.parametrize("size", [20_000, 200_000])
async def test_oversized_metadata_is_refused_by_the_transport(cloud, customer, size):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cloud.stub.Open(
            customer().open_request(), metadata=(*bearer(), ("x-much", "y" * size))
        )
    assert caught.value.code() in (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
    )
    await customer().open()
