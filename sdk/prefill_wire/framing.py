"""Frames of the data channel: length, type, payload; the length is judged before it is awaited."""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from prefill_wire.chunks import ChunkHeader
from prefill_wire.errors import LimitExceeded, MalformedFrame
from prefill_wire.limits import MAX_CONTROL_FRAME_BYTES, MAX_FRAME_BYTES

_PREFIX = struct.Struct("<IB")
PREFIX_BYTES = _PREFIX.size


class FrameType(IntEnum):
    """What a frame says; the number is on the wire."""

    HELLO = 1
    AUTHENTICATE = 2
    READY = 3
    REFUSE = 4
    PULL = 5
    CHUNK = 6
    END = 7
    PROGRESS = 8
    FAIL = 9
    GOODBYE = 10


_TYPES = {int(frame_type): frame_type for frame_type in FrameType}
Judge = Callable[[int, bytes], ChunkHeader]


class Frame(NamedTuple):
    """One frame, whole."""

    type: FrameType
    payload: bytes
    header: ChunkHeader | None = None


def frame_prefix(frame_type: FrameType, payload_bytes: int) -> bytes:
    """The bytes before a payload; a large payload is sent behind it without a copy."""
    if payload_bytes > _limit(frame_type):
        raise LimitExceeded.of(
            f"bytes of a {frame_type.name} frame", payload_bytes, _limit(frame_type)
        )
    return _PREFIX.pack(payload_bytes, frame_type)


def encode_frame(frame_type: FrameType, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return frame_prefix(frame_type, len(payload)) + payload


def _limit(frame_type: FrameType) -> int:
    return MAX_FRAME_BYTES if frame_type is FrameType.CHUNK else MAX_CONTROL_FRAME_BYTES


class FrameDecoder:
    """Bytes in any portions in, whole frames out.

    Buffers at most one frame that its peer may send: `accepted` names the types, everything else
    is refused by its first five bytes. `judge` is shown the size of a CHUNK frame's payload and its
    first `head_bytes` before the rest is awaited; what it makes of them goes with the frame, whose
    payload is that rest alone then.
    """

    def __init__(
        self, accepted: frozenset[FrameType], head_bytes: int = 0, judge: Judge | None = None
    ) -> None:
        self._accepted = accepted
        self._head_bytes, self._judge = head_bytes, judge
        self._judged: ChunkHeader | None = None  # of the frame that is being received
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """The frames that `data` completes; a `WireError` ends the connection."""
        self._buffer += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        if len(self._buffer) < PREFIX_BYTES:
            return None
        size, number = _PREFIX.unpack_from(self._buffer)
        frame_type = _TYPES.get(number)
        if frame_type is None:
            raise MalformedFrame(f"frame type {number} is unknown")
        if frame_type not in self._accepted:
            raise MalformedFrame(f"a {frame_type.name} frame is not for this side")
        if size > _limit(frame_type):
            raise LimitExceeded.of(f"bytes of a {frame_type.name} frame", size, _limit(frame_type))
        if frame_type is FrameType.CHUNK and not self._passes(size):
            return None
        end = PREFIX_BYTES + size
        if len(self._buffer) < end:
            return None
        header, self._judged = self._judged, None
        start = PREFIX_BYTES if header is None else PREFIX_BYTES + self._head_bytes
        payload = bytes(memoryview(self._buffer)[start:end])
        del self._buffer[:end]
        return Frame(frame_type, payload, header)

    def _passes(self, size: int) -> bool:
        """Whether a frame's head has come and was found good, which is asked once a frame."""
        if self._judge is None or self._judged is not None:
            return True
        head_bytes = min(size, self._head_bytes)
        head = bytes(self._buffer[PREFIX_BYTES : PREFIX_BYTES + head_bytes])
        if len(head) < head_bytes:
            return False
        self._judged = self._judge(size, head)
        return True

    def at_boundary(self) -> bool:
        """Whether no frame is half received: a connection may end here without loss."""
        return not self._buffer
