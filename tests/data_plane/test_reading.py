"""A message is read for who may call: what comes in halves holds no memory of anybody else's."""

import asyncio
import struct
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count

import grpc
import pytest
from hand_client import HandClient, detail_of, refused
from http2 import DATA, END_STREAM, HEADERS, SETTINGS, call, frame, message, raw
from in_process_cloud import FLEET_TOKEN, Cloud, bearer
from prefill_data import reading
from prefill_data.calls import CallLimits
from prefill_data.fleet_token import fleet_metadata
from prefill_wire.limits import GRPC_MAX_MESSAGE_BYTES
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import StatusCode

S = StatusCode
GATEWAY, WORKER = "/prefill.v1.PrefillGateway/", "/prefill.fleet.v1.PrefillWorker/"
HEALTH = "/grpc.health.v1.Health/"
NO_WINDOW = struct.pack(">HI", 4, 0)  # what a stream may be sent
HALF = message(bytes(GRPC_MAX_MESSAGE_BYTES - 64))[:1000]


async def end_of(frames):
    """Reads on until a call's last frame; whether an answer came before it."""
    answered = False
    async for kind, flags, _ in frames:
        answered = answered or kind == DATA
        if kind == HEADERS and flags & END_STREAM:
            return answered
    raise AssertionError("the connection ended before the call")


@pytest.mark.parametrize("method", ["Open", "Claim", "Cancel", "ListModels"])
async def test_without_a_key_a_call_ends_before_its_message_is_there(cloud, method):
    async with asyncio.timeout(10), raw(cloud.endpoint) as (writer, frames):
        writer.write(call(GATEWAY + method, 1) + frame(DATA, HALF, 0, 1))
        assert not await end_of(frames)


@pytest.mark.parametrize("method", ["Describe", "Admit", "Release"])
async def test_without_the_fleets_token_a_worker_reads_no_message(cloud, method):
    async with asyncio.timeout(10), raw(cloud.worker_endpoint) as (writer, frames):
        writer.write(call(WORKER + method, 1) + frame(DATA, HALF, 0, 1))
        assert not await end_of(frames)


async def test_whoever_is_refused_unread_is_told_a_request_all_the_same(cloud):
    asked = {
        "Prompt": iter([prefill_pb2.PromptPart()]),
        "Claim": prefill_pb2.ClaimRequest(),
        "ListModels": prefill_pb2.ListModelsRequest(),
    }
    for method, unread in asked.items():
        async with refused(S.KEY_NOT_FOUND) as detail:
            await getattr(cloud.stub, method)(unread)
        assert detail.request_id.startswith("req_")


async def test_a_message_that_cannot_be_read_is_the_callers_fault(cloud):
    called = (
        (cloud.endpoint, GATEWAY + "Open", bearer()),
        (cloud.endpoint, GATEWAY + "Prompt", bearer()),
        (cloud.worker_endpoint, WORKER + "Admit", fleet_metadata(FLEET_TOKEN)),
        (cloud.worker_endpoint, WORKER + "Run", fleet_metadata(FLEET_TOKEN)),
    )
    for endpoint, method, metadata in called:
        async with grpc.aio.insecure_channel(endpoint) as channel, refused(S.MALFORMED_REQUEST):
            async for _ in channel.stream_stream(method)(iter([b"\xff"]), metadata=metadata):
                raise AssertionError("it was answered")


async def test_with_a_key_a_message_is_awaited(cloud):
    """The twin: it comes in two halves, and is answered."""
    models = message(prefill_pb2.ListModelsRequest().SerializeToString())
    called = (
        (cloud.endpoint, GATEWAY + "ListModels", bearer()),
        (cloud.worker_endpoint, WORKER + "Describe", fleet_metadata(FLEET_TOKEN)),
    )
    for endpoint, method, metadata in called:
        async with asyncio.timeout(10), raw(endpoint) as (writer, frames):
            writer.write(call(method, 1, metadata) + frame(DATA, models[:2], 0, 1))
            await writer.drain()
            writer.write(frame(DATA, models[2:], END_STREAM, 1))
            assert await end_of(frames)


async def test_health_is_told_without_reading_and_watched_by_nobody(cloud):
    async with asyncio.timeout(10), raw(cloud.endpoint) as (writer, frames):
        writer.write(call(HEALTH + "Check", 1) + frame(DATA, HALF, 0, 1))
        assert await end_of(frames)
        writer.write(call(HEALTH + "Watch", 3) + frame(DATA, message(b""), END_STREAM, 3))
        assert not await end_of(frames)


@pytest.fixture
async def narrow(tmp_path, tidy):
    """A cloud whose gateway takes two calls of one tenant at a time."""
    cloud = Cloud(tmp_path)
    calls = CallLimits(most=4, most_a_tenant=2, most_unproven=4)
    cloud.gateway_settings = replace(cloud.gateway_settings, calls=calls)
    async with cloud:
        yield cloud


@asynccontextmanager
async def half_messages(cloud, tenant="acme"):
    """Calls of a tenant whose messages never end; gives what begins one more."""
    async with raw(cloud.endpoint) as (writer, _):
        streams = count(1, 2)

        def begin():
            stream = next(streams)
            writer.write(call(GATEWAY + "Open", stream, bearer(tenant)))
            writer.write(frame(DATA, HALF, 0, stream))

        yield begin


async def until(cloud, outcome, meanwhile=lambda: None):
    """Asks for the models of acme until that is what comes of it."""
    found = None
    async with asyncio.timeout(10):
        while found != outcome:
            meanwhile()
            try:
                await cloud.stub.ListModels(prefill_pb2.ListModelsRequest(), metadata=bearer())
                found = "listed"
            except grpc.aio.AioRpcError as error:
                found = detail_of(error).code


async def test_half_messages_take_places_of_their_own_tenant_until_they_end(narrow):
    other = HandClient(narrow, tenant="bolt")
    async with half_messages(narrow) as begin:
        await until(narrow, S.CAPACITY_EXHAUSTED, begin)
        await other.claim(await other.through())
    await until(narrow, "listed")


async def test_a_message_that_does_not_come_in_its_time_is_given_up(narrow, monkeypatch):
    monkeypatch.setattr(reading, "READ_SECONDS", 0.2)
    async with half_messages(narrow) as begin:
        await until(narrow, S.CAPACITY_EXHAUSTED, begin)
        await until(narrow, "listed")


async def test_answers_that_nobody_reads_take_places_of_their_own_tenant(narrow):
    other = HandClient(narrow, tenant="bolt")
    streams = count(1, 2)
    async with raw(narrow.endpoint) as (writer, _):
        writer.write(frame(SETTINGS, NO_WINDOW))

        def begin():
            stream = next(streams)
            writer.write(call(GATEWAY + "ListModels", stream, bearer()))
            writer.write(frame(DATA, message(b""), END_STREAM, stream))

        await until(narrow, S.CAPACITY_EXHAUSTED, begin)
        assert narrow.parts.calls.untaken("acme") == 4
        assert narrow.parts.calls.under_way == 0
        await other.claim(await other.through())
    await until(narrow, "listed")


async def test_answers_that_are_read_take_none(narrow):
    """The twin."""
    async with asyncio.timeout(10), raw(narrow.endpoint) as (writer, frames):
        for stream in range(1, 20, 2):
            writer.write(call(GATEWAY + "ListModels", stream, bearer()))
            writer.write(frame(DATA, message(b""), END_STREAM, stream))
            assert await end_of(frames)
    async with asyncio.timeout(10):
        while narrow.parts.calls.untaken("acme"):  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_what_is_no_message_is_refused_typed(cloud):
    channel = grpc.aio.insecure_channel(cloud.endpoint)
    async with channel:
        spoilt = channel.unary_unary(GATEWAY + "Open", request_serializer=lambda _: b"\xff")
        async with refused(S.MALFORMED_REQUEST) as detail:
            await spoilt(None, metadata=bearer())
        assert detail.request_id.startswith("req_")
