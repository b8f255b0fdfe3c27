"""How many calls a gRPC server takes, and what becomes of a peer that asks all the time."""

import asyncio
import struct
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from hand_client import HandClient, refused
from in_process_cloud import Cloud, bearer
from prefill_data.calls import CallLimits
from prefill_data.settings import Environment, read_calls
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import StatusCode

S = StatusCode
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY, ACK = 4, 6, 7, 1
MAX_CONCURRENT_STREAMS, ENHANCE_YOUR_CALM = 3, 11


@pytest.fixture
async def narrow(tmp_path, tidy):
    """A cloud whose gateway takes two calls at a time, three of one connection."""
    cloud = Cloud(tmp_path)
    calls = CallLimits(most=2, most_a_connection=3)
    cloud.gateway_settings = replace(cloud.gateway_settings, calls=calls)
    cloud.worker_settings = replace(cloud.worker_settings, calls=calls)
    async with cloud:
        yield cloud


@asynccontextmanager
async def waiting_calls(cloud, count):
    """So many calls under way, each of which waits for a prompt."""
    over = asyncio.Event()

    async def nothing():
        await over.wait()
        return
        yield

    calls = [cloud.stub.Prompt(nothing(), metadata=bearer()) for _ in range(count)]
    async with asyncio.timeout(10):
        while cloud.parts.calls.under_way < count:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    yield
    over.set()
    await asyncio.gather(*(asyncio.wait_for(call.code(), 10) for call in calls))


async def test_a_call_too_many_is_refused_with_numbers_and_passes_later(narrow):
    hand = HandClient(narrow)
    async with waiting_calls(narrow, 2):
        async with refused(S.CAPACITY_EXHAUSTED) as detail:
            await hand.open()
        assert "2 calls are under way here, the limit is 2" in detail.message
        assert "PREFILL_MAX_CALLS" in detail.remedy
        assert detail.retry_after_ms > 0
    await hand.claim(await hand.through())  # the twin


async def test_what_frees_others_is_taken_however_many_calls_there_are(narrow):
    hand = HandClient(narrow)
    await hand.open()
    async with waiting_calls(narrow, 2):
        await hand.cancel()
        async with refused(S.CAPACITY_EXHAUSTED):
            await narrow.stub.ListModels(prefill_pb2.ListModelsRequest(), metadata=bearer())
        await narrow.parts.fleet.look()
    assert narrow.parts.fleet.live()


@asynccontextmanager
async def raw(endpoint):
    """An HTTP/2 connection by hand; gives a writer and the frames that come."""
    host, port = endpoint.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(PREFACE + frame(SETTINGS))

    async def frames():
        while True:
            try:
                head = await reader.readexactly(9)
                length = int.from_bytes(head[:3], "big")
                yield head[3], head[4], await reader.readexactly(length)
            except asyncio.IncompleteReadError:
                return

    try:
        yield writer, frames()
    finally:
        writer.transport.abort()


def frame(kind, payload=b"", flags=0):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + bytes(4) + payload


async def test_a_peer_that_asks_all_the_time_is_told_to_calm_down(narrow):
    async with asyncio.timeout(10):
        for endpoint in (narrow.endpoint, narrow.worker_endpoint):
            async with raw(endpoint) as (writer, frames):
                writer.write(frame(PING, bytes(8)) * 20)
                errors = [data[4:8] async for kind, _, data in frames if kind == GOAWAY]
            assert struct.pack(">I", ENHANCE_YOUR_CALM) in errors


async def test_a_peer_that_asks_once_gets_its_answer_and_how_many_calls_it_may_make(narrow):
    """The twin."""
    async with asyncio.timeout(10), raw(narrow.endpoint) as (writer, frames):
        writer.write(frame(PING, b"answered"))
        settings = b""
        async for kind, flags, data in frames:
            assert kind != GOAWAY
            if kind == SETTINGS and not flags & ACK:
                settings = data
            if kind == PING and flags & ACK:
                assert data == b"answered"
                break
    told = dict(struct.unpack_from(">HI", settings, at) for at in range(0, len(settings), 6))
    assert told[MAX_CONCURRENT_STREAMS] == 3


def test_the_limits_come_from_the_settings():
    assert read_calls(Environment({})) == CallLimits()
    values = {"PREFILL_MAX_CALLS": "7", "PREFILL_MAX_CALLS_A_CONNECTION": "5",
              "PREFILL_KEEPALIVE_SECONDS": "9"}  # fmt: skip
    limits = read_calls(Environment(values))
    assert (limits.most, limits.most_a_connection, limits.silence_seconds) == (7, 5, 9)
    assert ("grpc.keepalive_time_ms", 9000) in limits.options()
