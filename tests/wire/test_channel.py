"""The data channel's two ends against each other: whole, byte by byte, truncated, out of turn."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefill_wire.capability import check_connection_proof
from prefill_wire.channel import (
    Authenticate,
    ChunkReceived,
    ClientChannel,
    End,
    Failed,
    Progress,
    Pull,
    Ready,
    Refused,
    ServerChannel,
)
from prefill_wire.errors import ChannelError, LimitExceeded, MalformedFrame, WireError
from prefill_wire.framing import FrameDecoder, FrameType, encode_frame
from prefill_wire.limits import MAX_FRAME_BYTES, SEAL_OVERHEAD_BYTES
from prefill_wire.producer import leaf_table_header
from prefill_wire.status import StatusCode

NONCE, KEY, CAPABILITY = b"n" * 32, b"k" * 32, b"c" * 60


@pytest.fixture
def ends():
    """Both ends of a connection that is open."""
    return open_ends()


def open_ends():
    server, client = ServerChannel(NONCE), ClientChannel(CAPABILITY, KEY)
    assert client.receive(server.greeting()) == []
    (shown,) = server.receive(client.data_to_send())
    assert isinstance(shown, Authenticate)
    check_connection_proof(KEY, NONCE, shown.capability, shown.proof)
    assert client.receive(server.ready()) == [Ready()]
    return server, client


def script(server, exchange):
    """Everything a worker says after READY, as one string of bytes, and the events of it."""
    data, events = server.progress(Progress(1, 7, 2)), [Progress(1, 7, 2)]
    for chunk in exchange.chunks:
        data += server.chunk_prefix(chunk.header, len(chunk.ciphertext)) + chunk.ciphertext
        events.append(ChunkReceived(chunk.header, chunk.ciphertext))
    data += server.end(len(exchange.chunks)) + server.fail(StatusCode.WORKER_LOST, "gone")
    return data, [*events, End(len(exchange.chunks)), Failed(StatusCode.WORKER_LOST, "gone")]


@pytest.mark.parametrize("portion", [1, 7, 1 << 20])
def test_the_same_events_in_any_portions(ends, make, portion):
    server, client = ends
    exchange = make()
    data, events = script(server, exchange)
    client.pull(0, len(exchange.chunks) + 1)
    got = []
    for start in range(0, len(data), portion):
        got += client.receive(data[start : start + portion])
    assert got == events


def test_truncation_gives_fewer_events_and_never_other_ones(make):
    exchange = make()
    data, events = script(ServerChannel(NONCE), exchange)
    for cut in range(0, len(data), 5):
        client = ClientChannel(CAPABILITY, KEY)
        client.receive(ServerChannel(NONCE).greeting() + encode_frame(FrameType.READY))
        client.pull(0, len(exchange.chunks) + 1)
        got = client.receive(data[:cut])
        assert got == events[: len(got)]
        assert len(got) < len(events)


def test_pulls_arrive_as_they_were_asked(ends):
    server, client = ends
    client.pull(0, 4)
    client.pull(9, 1)
    assert server.receive(client.data_to_send()) == [Pull(0, 4), Pull(9, 1)]


def test_a_refusal_says_why():
    server, client = ServerChannel(NONCE), ClientChannel(CAPABILITY, KEY)
    client.receive(server.greeting())
    refusal = server.refuse(StatusCode.TOO_MANY_CONNECTIONS, "5 connections, the limit is 4")
    assert client.receive(refusal) == [
        Refused(StatusCode.TOO_MANY_CONNECTIONS, "5 connections, the limit is 4")
    ]


def test_messages_out_of_turn_are_refused():
    with pytest.raises(ChannelError):
        ServerChannel(NONCE).receive(encode_frame(FrameType.PULL, struct.pack("<II", 0, 1)))
    with pytest.raises(ChannelError):
        ClientChannel(CAPABILITY, KEY).receive(encode_frame(FrameType.READY))
    with pytest.raises(ChannelError):
        ClientChannel(CAPABILITY, KEY).pull(0, 1)
    with pytest.raises(MalformedFrame):
        ServerChannel(NONCE).receive(encode_frame(FrameType.END, b"\0\0\0\0"))


def test_a_chunk_is_refused_by_its_header_before_its_bytes_come(ends, make):
    server, client = ends
    header = make().chunks[0].header
    size = header.payload_bytes + SEAL_OVERHEAD_BYTES
    table = leaf_table_header(3, 100 << 20)
    client.pull(0, 4)
    assert client.receive(server.chunk_prefix(header, size)) == []  # the twin: it is awaited
    for announced, more, error in (
        (header, 128 << 20, MalformedFrame),  # larger than it says
        (replace(header, index=4), size, ChannelError),  # not asked for
        (table, 100 << 20, LimitExceeded),  # longer than three leaves
    ):
        _, client = open_ends()
        client.pull(0, 4)
        with pytest.raises(error):
            client.receive(server.chunk_prefix(announced, more))


def test_more_ends_than_chunks_were_asked_for_are_refused(ends):
    server, client = ends
    client.pull(5, 2)
    assert client.receive(server.end(5) * 2) == [End(5)] * 2
    with pytest.raises(ChannelError, match="unasked"):
        client.receive(server.end(5))
    client.pull(5, 1)
    assert client.receive(server.end(5)) == [End(5)]


def test_a_length_beyond_its_limit_is_refused_before_its_bytes_come(ends):
    server, client = ends
    with pytest.raises(LimitExceeded):
        client.receive(struct.pack("<IB", MAX_FRAME_BYTES + 1, FrameType.CHUNK))
    with pytest.raises(LimitExceeded):
        server.receive(struct.pack("<IB", 5000, FrameType.PULL))
    with pytest.raises(LimitExceeded):
        server.receive(encode_frame(FrameType.PULL, struct.pack("<II", 0, 1 << 17)))


@given(st.binary(max_size=200))
def test_noise_is_refused_or_waits(noise):
    for end in (ServerChannel(NONCE), ClientChannel(CAPABILITY, KEY)):
        try:
            events = end.receive(noise)
        except WireError:
            continue
        assert all(not isinstance(event, ChunkReceived) for event in events)


@given(st.lists(st.tuples(st.sampled_from(list(FrameType)), st.binary(max_size=64)), max_size=6))
def test_frames_round_trip(frames):
    data = b"".join(encode_frame(*frame) for frame in frames)
    decoder = FrameDecoder(frozenset(FrameType))
    got = [(f.type, f.payload) for byte in data for f in decoder.feed(bytes([byte]))]
    assert got == frames
    assert decoder.at_boundary()
