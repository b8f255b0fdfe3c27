"""HTTP/2 by hand: frames, and calls whose messages come in pieces."""

import asyncio
import struct
from contextlib import asynccontextmanager

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7
ACK = END_STREAM = 1
END_HEADERS = 4


@asynccontextmanager
async def raw(endpoint):
    """A connection; gives a writer and the frames that come: kind, flags, payload."""
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


def frame(kind, payload=b"", flags=0, stream=0):
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags])
    return head + stream.to_bytes(4, "big") + payload


def call(path, stream, metadata=()):
    """The head of a gRPC call, every field spelled out."""
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "test"),
              ("te", "trailers"), ("content-type", "application/grpc"), *metadata]  # fmt: skip
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields
    )
    return frame(HEADERS, block, END_HEADERS, stream)


def message(data):
    """As gRPC frames it: not compressed, its length, its bytes."""
    return struct.pack(">BI", 0, len(data)) + data
