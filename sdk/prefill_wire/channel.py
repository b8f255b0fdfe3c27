"""The data channel as two state machines: events in, bytes out, no I/O.

worker  HELLO(version, nonce)
SDK     AUTHENTICATE(capability, proof)
worker  READY | REFUSE(code, message)
SDK     PULL(first, count)             any number, also while chunks are under way
worker  CHUNK(header, ciphertext)      in the order pulled, each when it is ready
        PROGRESS(...)                  while it waits: sign of life and progress bar
        END(chunk_count)               once an index beyond the last is pulled
        FAIL(code, message)            when the attempt has died
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from prefill_wire.capability import NONCE_BYTES, TAG_BYTES, connection_proof
from prefill_wire.chunks import HEADER_BYTES, ChunkHeader
from prefill_wire.errors import ChannelError, LimitExceeded, MalformedFrame, UnsupportedVersion
from prefill_wire.framing import Frame, FrameDecoder, FrameType, encode_frame, frame_prefix
from prefill_wire.limits import (
    MAX_CAPABILITY_BYTES,
    MAX_CHUNKS,
    MAX_PULL_CHUNKS,
    SEAL_OVERHEAD_BYTES,
    WIRE_VERSION,
)
from prefill_wire.status import StatusCode

_VERSION = struct.Struct("<H")
_PULL = struct.Struct("<II")
_END = struct.Struct("<I")
_PROGRESS = struct.Struct("<QQI")
_FROM_CLIENT = frozenset({FrameType.AUTHENTICATE, FrameType.PULL, FrameType.GOODBYE})
_FROM_SERVER = frozenset(FrameType) - _FROM_CLIENT


@dataclass(frozen=True, slots=True)
class Authenticate:
    """An SDK shows its capability and the proof that it opened the envelope."""

    capability: bytes
    proof: bytes


@dataclass(frozen=True, slots=True)
class Pull:
    """An SDK asks for `count` chunks from index `first` on."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Goodbye:
    """An SDK is done with this connection."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has taken the connection on."""


@dataclass(frozen=True, slots=True)
class ChunkReceived:
    """One sealed chunk, its header parsed and bounded, its seal still unopened."""

    header: ChunkHeader
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The attempt has `chunk_count` chunks and no more."""

    chunk_count: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Tokens prefilled, tokens in all, chunks ready."""

    done_tokens: int
    total_tokens: int
    chunks_ready: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The worker does not take this connection."""

    code: StatusCode
    message: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt has died at the worker."""

    code: StatusCode
    message: str


ServerEvent = Authenticate | Pull | Goodbye
ClientEvent = Ready | ChunkReceived | End | Progress | Refused | Failed


class _State(Enum):
    GREETING = auto()
    AUTHENTICATING = auto()
    OPEN = auto()
    CLOSED = auto()


class ServerChannel:
    """The worker's end of one connection."""

    def __init__(self, nonce: bytes) -> None:
        """`nonce`: 32 fresh random bytes."""
        self._nonce = nonce
        self._state = _State.GREETING
        self._decoder = FrameDecoder(_FROM_CLIENT)

    @property
    def nonce(self) -> bytes:
        """What the connection proof has to cover."""
        return self._nonce

    def greeting(self) -> bytes:
        """The first bytes of a connection."""
        return encode_frame(FrameType.HELLO, _VERSION.pack(WIRE_VERSION) + self._nonce)

    def receive(self, data: bytes) -> list[ServerEvent]:
        """The events that `data` completes; a `WireError` ends the connection."""
        return [self._event(frame) for frame in self._decoder.feed(data)]

    def _event(self, frame: Frame) -> ServerEvent:
        if frame.type is FrameType.AUTHENTICATE and self._state is _State.GREETING:
            self._state = _State.AUTHENTICATING
            if not TAG_BYTES < len(frame.payload) <= TAG_BYTES + MAX_CAPABILITY_BYTES:
                raise MalformedFrame(f"an AUTHENTICATE frame of {len(frame.payload)} bytes")
            return Authenticate(frame.payload[TAG_BYTES:], frame.payload[:TAG_BYTES])
        if frame.type is FrameType.PULL and self._state is _State.OPEN:
            first, count = _unpack(_PULL, frame)
            if not (0 < count <= MAX_PULL_CHUNKS and first <= MAX_CHUNKS):
                raise LimitExceeded.of(f"chunks pulled from {first} on", count, MAX_PULL_CHUNKS)
            return Pull(first, count)
        if frame.type is FrameType.GOODBYE:
            self._state = _State.CLOSED
            return Goodbye()
        raise ChannelError(f"a {frame.type.name} frame while {self._state.name.lower()}")

    def ready(self) -> bytes:
        """Take the connection on, after capability and proof held."""
        if self._state is not _State.AUTHENTICATING:
            raise ChannelError("ready before an authentication")
        self._state = _State.OPEN
        return encode_frame(FrameType.READY)

    def refuse(self, code: StatusCode, message: str) -> bytes:
        """Refuse the connection; nothing follows."""
        self._state = _State.CLOSED
        return encode_frame(FrameType.REFUSE, _reason(code, message))

    def chunk_prefix(self, header: ChunkHeader, ciphertext_bytes: int) -> bytes:
        """All of a CHUNK frame but the ciphertext, which follows without a copy."""
        size = HEADER_BYTES + ciphertext_bytes
        return frame_prefix(FrameType.CHUNK, size) + header.encode()

    def end(self, chunk_count: int) -> bytes:
        """Say how many chunks there are."""
        return encode_frame(FrameType.END, _END.pack(chunk_count))

    def progress(self, progress: Progress) -> bytes:
        """Say how far the prefill is."""
        numbers = (progress.done_tokens, progress.total_tokens, progress.chunks_ready)
        return encode_frame(FrameType.PROGRESS, _PROGRESS.pack(*numbers))

    def fail(self, code: StatusCode, message: str) -> bytes:
        """Say that the attempt has died; nothing follows."""
        self._state = _State.CLOSED
        return encode_frame(FrameType.FAIL, _reason(code, message))


class ClientChannel:
    """The SDK's end of one connection."""

    def __init__(self, capability: bytes, connection_key: bytes) -> None:
        self._capability, self._key = capability, connection_key
        self._state = _State.GREETING
        self._outgoing = bytearray()
        self._decoder = FrameDecoder(_FROM_SERVER, HEADER_BYTES, self._judge)
        self._asked_end = self._ends_owed = 0
        self._handlers: dict[FrameType, Callable[[bytes], ClientEvent]] = {
            FrameType.END: self._end,
            FrameType.PROGRESS: lambda data: Progress(*_unpack_bytes(_PROGRESS, data, "PROGRESS")),
            FrameType.FAIL: lambda payload: Failed(*_parse_reason(payload)),
        }

    def receive(self, data: bytes) -> list[ClientEvent]:
        """The events that `data` completes; a `WireError` ends the connection."""
        events = (self._event(frame) for frame in self._decoder.feed(data))
        return [event for event in events if event is not None]

    def _event(self, frame: Frame) -> ClientEvent | None:
        if self._state is _State.GREETING and frame.type is FrameType.HELLO:
            self._authenticate(frame.payload)
            return None
        if self._state is _State.AUTHENTICATING and frame.type is FrameType.READY:
            self._state = _State.OPEN
            return Ready()
        if self._state is not _State.CLOSED and frame.type is FrameType.REFUSE:
            self._state = _State.CLOSED
            return Refused(*_parse_reason(frame.payload))
        if self._state is _State.OPEN and frame.header is not None:
            return ChunkReceived(frame.header, frame.payload)
        handler = self._handlers.get(frame.type)
        if self._state is not _State.OPEN or handler is None:
            raise ChannelError(f"a {frame.type.name} frame while {self._state.name.lower()}")
        return handler(frame.payload)

    def _authenticate(self, payload: bytes) -> None:
        if len(payload) != _VERSION.size + NONCE_BYTES:
            raise MalformedFrame(f"a HELLO frame of {len(payload)} bytes")
        (version,) = _VERSION.unpack_from(payload)
        if version != WIRE_VERSION:
            raise UnsupportedVersion(f"the worker speaks version {version}, this side 1")
        proof = connection_proof(self._key, payload[_VERSION.size :], self._capability)
        self._outgoing += encode_frame(FrameType.AUTHENTICATE, proof + self._capability)
        self._state = _State.AUTHENTICATING

    def _judge(self, size_bytes: int, head: bytes) -> ChunkHeader:
        """Refuse a chunk by its header: nobody waits for megabytes that were not asked for."""
        header = ChunkHeader.decode(head)
        if header.index >= self._asked_end:
            raise ChannelError(f"chunk {header.index} came unasked")
        wanted = HEADER_BYTES + header.payload_bytes + SEAL_OVERHEAD_BYTES
        if size_bytes != wanted:
            raise MalformedFrame(f"chunk {header.index} has {size_bytes} bytes, not {wanted}")
        return header

    def _end(self, payload: bytes) -> End:
        """At most one for each chunk that was asked for: else they would come for ever."""
        if not self._ends_owed:
            raise ChannelError("an END came unasked")
        self._ends_owed -= 1
        return End(*_unpack_bytes(_END, payload, "END"))

    def pull(self, first: int, count: int) -> None:
        """Ask for `count` chunks from index `first` on."""
        if self._state is not _State.OPEN:
            raise ChannelError(f"a pull while {self._state.name.lower()}")
        self._asked_end = max(self._asked_end, first + count)
        self._ends_owed += count
        self._outgoing += encode_frame(FrameType.PULL, _PULL.pack(first, count))

    def goodbye(self) -> None:
        """Take leave; the connection may be closed then."""
        self._outgoing += encode_frame(FrameType.GOODBYE)

    def data_to_send(self) -> bytes:
        """What has to be written to the connection now."""
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data


def _reason(code: StatusCode, message: str) -> bytes:
    return f"{code}\n{message}".encode()[:1024]


def _parse_reason(payload: bytes) -> tuple[StatusCode, str]:
    name, _, message = payload.decode("utf-8", "replace").partition("\n")
    known = name in StatusCode.__members__
    return (StatusCode(name) if known else StatusCode.INTERNAL), message[:512]


def _unpack(layout: struct.Struct, frame: Frame) -> tuple[int, ...]:
    return _unpack_bytes(layout, frame.payload, frame.type.name)


def _unpack_bytes(layout: struct.Struct, payload: bytes, name: str) -> tuple[int, ...]:
    if len(payload) != layout.size:
        raise MalformedFrame(f"a {name} frame of {len(payload)} bytes, expected {layout.size}")
    return layout.unpack(payload)
