"""The worker: memory it admits, several at once, cancel, deadline, lease, fences, fleet token."""

import asyncio
from dataclasses import replace

import grpc
import pytest
from hand_client import HandClient, detail_of, refused
from in_process_cloud import Cloud, counted, spill_files
from prefill_data.errors import DataPlaneError
from prefill_data.fleet_token import fleet_metadata
from prefill_fleet.pb import fleet_pb2, fleet_pb2_grpc
from prefill_wire.digests import prompt_digest, token_bytes
from prefill_wire.sealing import OneTimeKey
from prefill_wire.status import StatusCode
from stand_in_backend import IDENTITY

S = StatusCode


@pytest.fixture
async def small(tmp_path, tidy):
    """A cloud whose worker has room for two attempts."""
    cloud = Cloud(tmp_path)
    needed = cloud.backend.sequence_bytes("tiny", 20) + (1 << 20) + 12 * 20
    cloud.worker_settings = replace(cloud.worker_settings, memory_cap_bytes=2 * needed)
    async with cloud:
        yield cloud


async def test_the_third_of_two_is_refused_with_numbers_and_fits_later(small):
    first, second, third = (HandClient(small, key=str(n)) for n in range(3))
    await first.open()
    await second.open()
    cap = small.worker_settings.memory_cap_bytes
    async with refused(S.CAPACITY_EXHAUSTED) as detail:
        await third.open()
    assert f"need {cap // 2} bytes, free are 0 of {cap}" in detail.message
    assert detail.retry_after_ms > 0
    await first.cancel()
    await small.parts.opener.settle()
    await third.open()


@pytest.mark.parametrize("how", ["cancel", "deadline", "lease", "leave"])
async def test_the_end_of_an_attempt_reaches_the_backend_within_one_step(cloud, customer, how):
    cloud.backend.hold()
    hand = customer()
    await hand.open()
    await hand.prompt()
    await cloud.backend.until(lambda b: len(b.steps) == 1)
    async with hand.wire() as wire:
        await wire.ready()
        pulling = asyncio.create_task(wire.pull())
        if how == "cancel":
            await hand.cancel()
        elif how == "leave":
            await cloud.stop_gateway()
        else:
            cloud.clock.advance(31 if how == "deadline" else 10_000)
            cloud.sweep()
        await cloud.backend.until(lambda b: b.running == 0)
        assert await pulling == {}
    assert len(cloud.backend.steps) == 1
    assert cloud.backend.cancelled == [f"{hand.accept.request_id}/1"]
    if how != "leave":
        await cloud.parts.opener.settle()
    assert len(cloud.attempts) == cloud.attempts.reserved_bytes == 0
    assert spill_files(cloud) == []


async def test_what_nobody_ends_goes_on(cloud, customer):
    """The twin: without an end the backend is left to work."""
    cloud.backend.hold()
    hand = customer()
    await hand.open()
    await hand.prompt()
    await cloud.backend.until(lambda b: len(b.steps) == 1)
    cloud.clock.advance(29)
    cloud.sweep()
    cloud.backend.release()
    await hand.claim(await hand.download())
    assert cloud.backend.cancelled == []


async def test_a_finished_state_is_freed_by_its_lease_alone(cloud, customer):
    hand = customer()
    chunks = await hand.through()
    await cloud.parts.book.find("acme", hand.accept.request_id, 1).finished
    cloud.clock.advance(31)  # beyond the deadline, within the lease
    cloud.sweep()
    assert len(cloud.attempts) == 1
    claim = await hand.claim(chunks)
    cloud.clock.advance(10_000)
    async with refused(S.LEASE_EXPIRED):
        await hand.claim(chunks)
    cloud.sweep()
    async with refused(S.ATTEMPT_NOT_FOUND):
        await hand.claim(chunks)
    assert claim.amount_micros == 20
    other = customer(key="other")
    await other.through()
    cloud.clock.advance(10_000)
    cloud.attempts.expire(cloud.clock())  # the worker's own clock, whatever its gateway does
    assert len(cloud.attempts) == cloud.attempts.reserved_bytes == 0


async def test_a_backend_that_fails_ends_the_attempt_with_its_reason(cloud, customer, log_lines):
    cloud.backend.failure = DataPlaneError(S.STORAGE_EXHAUSTED, "no room in the engine")
    hand = customer()
    await hand.open()
    await hand.prompt()
    await cloud.backend.until(lambda b: b.steps and b.running == 0)
    cloud.backend.failure = None
    request = hand.open_request()
    answer = await cloud.stub.Open(request, metadata=hand.metadata)
    assert answer.accept.attempt in (1, 2)  # 1 while the word is on its way
    await cloud.parts.opener.settle()
    assert '"code": "STORAGE_EXHAUSTED"' in log_lines.getvalue()


def stub_of(channel):
    return fleet_pb2_grpc.PrefillWorkerStub(channel)


def admit_request(**changes):
    """What a gateway would send for twenty tokens."""
    tokens = token_bytes(range(20))
    fields = {
        "request_id": "req_x", "attempt": 1, "fencing_epoch": 5, "tenant": "acme",
        "key_id": "k", "model": "tiny", "model_fingerprint": IDENTITY.fingerprint,
        "tokenizer_fingerprint": IDENTITY.tokenizer_fingerprint, "numerics_profile": "fp32",
        "token_count": 20, "prompt_digest": prompt_digest(tokens), "wire_version": 1,
        "one_time_public_key": OneTimeKey.generate().public_bytes, "offered_codecs": ["raw"],
        "max_connections": 4, "deadline_ms": 1000, "lease_seconds": 60,
    }  # fmt: skip
    return fleet_pb2.AdmitRequest(**{**fields, **changes})


@pytest.fixture
async def fleet(cloud):
    """The worker's own stub, and the token's metadata."""
    async with grpc.aio.insecure_channel(cloud.worker_endpoint) as channel:
        yield stub_of(channel), fleet_metadata(cloud.worker_settings.fleet_token)


@pytest.mark.parametrize("metadata", [(), fleet_metadata(b"x" * 33), fleet_metadata(b"")])
async def test_nobody_without_the_fleet_token_is_served(cloud, fleet, metadata):
    stub, good = fleet

    async def parts():
        yield fleet_pb2.RunPart(request_id="req_x", attempt=1)

    calls = [stub.Describe(fleet_pb2.DescribeRequest(), metadata=metadata),
             stub.Admit(admit_request(), metadata=metadata),
             stub.Release(fleet_pb2.ReleaseRequest(), metadata=metadata),
             stub.Run(parts(), metadata=metadata).read()]  # fmt: skip
    for call in calls:
        async with refused(S.PERMISSION_DENIED):
            await call
    assert counted(cloud.worker_metrics.refusals, code=S.PERMISSION_DENIED) == 4
    await stub.Admit(admit_request(), metadata=good)


async def test_an_older_epoch_or_attempt_is_fenced_and_a_newer_one_replaces(cloud, fleet):
    stub, good = fleet
    await stub.Admit(admit_request(attempt=2), metadata=good)
    for older in ({"attempt": 2}, {"attempt": 1}, {"attempt": 9, "fencing_epoch": 4}):
        async with refused(S.ATTEMPT_FENCED):
            await stub.Admit(admit_request(**older), metadata=good)
    for newer in ({"attempt": 3}, {"attempt": 1, "fencing_epoch": 6}):
        await stub.Admit(admit_request(**newer), metadata=good)
        assert len(cloud.attempts) == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model": "big"}, S.UNKNOWN_MODEL),
        ({"model_fingerprint": b"x"}, S.MODEL_MISMATCH),
        ({"token_count": 1}, S.EMPTY_PROMPT),
        ({"token_count": 1 << 40}, S.PROMPT_TOO_LONG),
        ({"offered_codecs": ["lossy"]}, S.UNSUPPORTED_CODEC),
        ({"codec_policy": "best"}, S.UNSUPPORTED_CODEC),
        ({"offered_codecs": ["int8-row"]}, S.UNSUPPORTED_CODEC),
        ({"wire_version": 2}, S.UNSUPPORTED_WIRE_VERSION),
    ],
)
async def test_a_worker_refuses_what_its_gateway_should_have(cloud, fleet, changes, code):
    stub, good = fleet
    async with refused(code):
        await stub.Admit(admit_request(**changes), metadata=good)
    assert cloud.attempts.reserved_bytes == 0


async def test_a_second_run_of_one_attempt_is_fenced(cloud, fleet):
    stub, good = fleet
    cloud.backend.hold()
    await stub.Admit(admit_request(), metadata=good)

    async def parts():
        yield fleet_pb2.RunPart(request_id="req_x", attempt=1, token_ids=token_bytes(range(20)))

    first = stub.Run(parts(), metadata=good)
    assert (await first.read()).WhichOneof("event") == "started"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Run(parts(), metadata=good).read()
    assert detail_of(caught.value).code == S.ATTEMPT_FENCED
    cloud.backend.release()
    assert (await first.read()).WhichOneof("event") == "finished"
