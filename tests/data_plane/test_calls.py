"""How many calls a gRPC server takes, and what becomes of a peer that asks all the time."""

import asyncio
import struct
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from hand_client import HandClient, refused
from http2 import ACK, GOAWAY, PING, SETTINGS, frame, raw
from in_process_cloud import Cloud, bearer
from prefill_data.calls import CallCount, CallLimits
from prefill_data.errors import DataPlaneError
from prefill_data.settings import Environment, read_calls
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import StatusCode

S = StatusCode
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
async def waiting_calls(cloud, count, tenant="acme"):
    """So many calls of a tenant under way, each of which waits for a prompt."""
    over = asyncio.Event()

    async def nothing():
        await over.wait()
        return
        yield

    calls = [cloud.stub.Prompt(nothing(), metadata=bearer(tenant)) for _ in range(count)]
    async with asyncio.timeout(10):
        while cloud.parts.calls.of(tenant) < count:  # noqa: ASYNC110
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


@pytest.fixture
async def shared(tmp_path, tidy):
    """A cloud whose gateway takes four calls at a time, two of one tenant unless a test says
    otherwise before it starts it."""
    cloud = Cloud(tmp_path)
    calls = CallLimits(most=4, most_a_tenant=2, most_unproven=1)
    cloud.gateway_settings = replace(cloud.gateway_settings, calls=calls)
    await cloud.start_worker()
    yield cloud
    await cloud.__aexit__()


async def test_a_tenant_that_fills_its_share_leaves_others_room(shared):
    await shared.start_gateway()
    mine, other = HandClient(shared), HandClient(shared, tenant="bolt")
    async with waiting_calls(shared, 2):
        async with refused(S.CAPACITY_EXHAUSTED) as detail:
            await mine.open()
        assert "2 calls of this account are under way here, the limit is 2" in detail.message
        assert "PREFILL_MAX_CALLS_A_TENANT" in detail.remedy
        assert detail.retry_after_ms > 0
        await other.claim(await other.through())
    assert shared.parts.calls.of("acme") == shared.parts.calls.under_way == 0
    await mine.claim(await mine.through())


async def test_without_a_share_one_tenant_keeps_everybody_out(shared):
    """The twin: the same calls, and nothing but the limit of all."""
    calls = replace(shared.gateway_settings.calls, most=2)
    shared.gateway_settings = replace(shared.gateway_settings, calls=calls)
    await shared.start_gateway()
    async with waiting_calls(shared, 2), refused(S.CAPACITY_EXHAUSTED):
        await HandClient(shared, tenant="bolt").open()


async def test_a_claim_that_waits_for_nobody_is_taken_beyond_the_share(shared):
    await shared.start_gateway()
    hand, slow = HandClient(shared), HandClient(shared, key="slow")
    chunks = await hand.through()
    await slow.open()
    async with waiting_calls(shared, 2):
        await asyncio.shield(shared.parts.book.find("acme", hand.accept.request_id, 1).finished)
        first = await hand.claim(chunks)
        assert await hand.claim(chunks) == first  # billed by now
        async with refused(S.CAPACITY_EXHAUSTED):  # the twin: nothing of it is finished
            await hand.claim(chunks, request_id=slow.accept.request_id)
        await slow.cancel()


async def test_who_shows_no_key_takes_no_place_of_a_tenants(shared):
    await shared.start_gateway()
    async with waiting_calls(shared, 2), waiting_calls(shared, 2, "bolt"):
        async with refused(S.KEY_NOT_FOUND):
            await shared.stub.ListModels(prefill_pb2.ListModelsRequest())
        async with refused(S.CAPACITY_EXHAUSTED) as detail:
            await HandClient(shared, tenant="coda").open()
        assert "4 calls are under way here, the limit is 4" in detail.message
    assert shared.parts.calls.unproven == 0


def test_calls_whose_key_is_not_checked_yet_have_places_of_their_own():
    count = CallCount(most=2, most_a_tenant=1, most_unproven=1)
    with count.place() as first:
        with pytest.raises(DataPlaneError, match="1 calls are under way here, the limit is 1"):
            count.place().__enter__()
        with count.place(always=True):  # short, and frees something
            assert count.unproven == 2
        first.belongs_to("acme")
        with count.place() as second:  # the first one's place is free again
            with pytest.raises(DataPlaneError, match="of this account"):
                second.belongs_to("acme")
            second.belongs_to("acme", always=True)
        assert (count.unproven, count.under_way, count.of("acme")) == (0, 1, 1)
    assert (count.unproven, count.under_way, count.of("acme")) == (0, 0, 0)


def test_messages_under_way_have_places_of_their_own():
    count = CallCount(most=2, most_a_tenant=1, most_unproven=4)
    with count.place() as answered, count.place() as read, count.place() as other:
        answered.reads("acme")
        with pytest.raises(DataPlaneError, match="1 calls of this account are under way here"):
            read.reads("acme")
        answered.belongs_to("acme")
        read.reads("acme")  # the twin: however many are answered
        assert (count.unproven, count.under_way, count.of("acme")) == (1, 1, 1)
        other.reads("bolt")
        with count.place() as third, pytest.raises(DataPlaneError, match="2 calls are under way"):
            third.reads("coda")
        with pytest.raises(DataPlaneError, match="1 calls of this account are under way here"):
            read.belongs_to("acme")
    assert (count.unproven, count.under_way, count.reading.taken) == (0, 0, 0)


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


@pytest.fixture
async def crowded(tmp_path, tidy):
    """A cloud whose servers take two connections, each for a second without a word."""
    cloud = Cloud(tmp_path)
    calls = CallLimits(most_connections=2, handshake_seconds=1)
    cloud.gateway_settings = replace(cloud.gateway_settings, calls=calls)
    async with cloud:
        yield cloud


async def test_a_connection_too_many_is_closed_at_once_and_let_in_later(crowded):
    async with asyncio.timeout(10):
        async with raw(crowded.endpoint) as (_, first), raw(crowded.endpoint) as (_, second):
            assert {(await anext(each))[0] for each in (first, second)} == {SETTINGS}
            async with raw(crowded.endpoint) as (_, third):
                assert [kind async for kind, _, _ in third] == []
        while True:  # the twin: their places are free as soon as the server has heard
            async with raw(crowded.endpoint) as (_, fourth):
                if await anext(fourth, None) is not None:
                    break


async def test_who_says_nothing_of_grpc_is_dropped(crowded):
    async with asyncio.timeout(10), raw(crowded.endpoint) as (writer, frames):
        host, port = crowded.endpoint.split(":")
        reader, silent = await asyncio.open_connection(host, int(port))
        while await reader.read(64):
            pass  # what the server says first, and then its end
        silent.close()
        writer.write(frame(PING, b"answered"))  # the twin: who greeted is still there
        assert b"answered" in [data async for kind, _, data in until_pong(frames)]


async def until_pong(frames):
    async for each in frames:
        yield each
        if each[0] == PING:
            return


def test_the_limits_come_from_the_settings():
    assert read_calls(Environment({})) == CallLimits()
    values = {"PREFILL_MAX_CALLS": "7", "PREFILL_MAX_CALLS_A_CONNECTION": "5",
              "PREFILL_KEEPALIVE_SECONDS": "9", "PREFILL_MAX_CALLERS": "11"}  # fmt: skip
    limits = read_calls(Environment(values))
    assert (limits.most, limits.most_a_connection, limits.silence_seconds) == (7, 5, 9)
    assert (limits.most_a_tenant, limits.most_unproven) == (1, 1)  # a quarter, an eighth
    assert read_calls(Environment({"PREFILL_MAX_CALLS_A_TENANT": "9"})).most_a_tenant == 9
    assert ("grpc.keepalive_time_ms", 9000) in limits.options()
    assert ("grpc.max_allowed_incoming_connections", 11) in limits.options()
