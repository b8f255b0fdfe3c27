"""How records lie in the spool, and what a crash can leave of them. Pure.

Frame: u32 length | 32 bytes BLAKE3 | body. A frame is what one fsync makes durable: one record, or
with the highest bit of the length set a group, whose body is u32 length | record, again and again,
and whose digest covers the length too. Frames are written one at a time: a crash tears the last one
at most, and never one that was acknowledged.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import NamedTuple

from blake3 import blake3

MAX_RECORD_BYTES = 1 << 20  # also of a group's body
MAX_GROUP_RECORDS = 64
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 32
_GROUP = 1 << 31
_HEAD = re.compile(rb"(?s)(?=..[\x00-\x10][\x00\x80])")  # a length that a frame may have
RECORD_OVERHEAD_BYTES = _LENGTH.size + _DIGEST_BYTES
MAX_FRAME_BYTES = RECORD_OVERHEAD_BYTES + MAX_RECORD_BYTES
WINDOW_BYTES = 2 * MAX_RECORD_BYTES  # read at once: the longest frame fits


class Frame(NamedTuple):
    """What one fsync made durable, and its bytes in the file."""

    bodies: tuple[bytes, ...]
    size_bytes: int


def group_bytes(bodies: Sequence[bytes]) -> int:
    """What these records take of `MAX_RECORD_BYTES` in one frame."""
    each = 0 if len(bodies) == 1 else _LENGTH.size
    return sum(each + len(body) for body in bodies)


def pack(bodies: Sequence[bytes]) -> bytes:
    """One frame of at least one record; the caller keeps to `MAX_RECORD_BYTES`."""
    if len(bodies) == 1:
        (body,) = bodies
        return _LENGTH.pack(len(body)) + blake3(body).digest() + body
    inside = b"".join(_LENGTH.pack(len(body)) + body for body in bodies)
    head = _LENGTH.pack(_GROUP | len(inside))
    return head + blake3(head + inside).digest() + inside


def frame_at(data: bytes, at: int) -> Frame | None:
    """The whole frame that begins there; None when none does."""
    start = at + RECORD_OVERHEAD_BYTES
    if start > len(data):
        return None
    (word,) = _LENGTH.unpack_from(data, at)
    length = word & ~_GROUP
    if not 0 < length <= MAX_RECORD_BYTES or start + length > len(data):
        return None
    body = data[start : start + length]
    covered = data[at : at + _LENGTH.size] + body if word & _GROUP else body
    if blake3(covered).digest() != data[at + _LENGTH.size : start]:
        return None
    return Frame(_split(body) if word & _GROUP else (body,), RECORD_OVERHEAD_BYTES + length)


def _split(inside: bytes) -> tuple[bytes, ...]:
    """The records of a group whose digest held."""
    bodies: list[bytes] = []
    at = 0
    while at < len(inside):
        (length,) = _LENGTH.unpack_from(inside, at)
        at += _LENGTH.size
        bodies.append(inside[at : at + length])
        at += length
    return tuple(bodies)


def whole_frames(data: bytes) -> list[Frame]:
    """The whole frames from the start of `data` on."""
    frames: list[Frame] = []
    at = 0
    while (frame := frame_at(data, at)) is not None:
        frames.append(frame)
        at += frame.size_bytes
    return frames


def is_torn_tail(rest: bytes) -> bool:
    """Whether a crash may have left this behind the last whole frame; a window of it is enough."""
    if len(rest) > MAX_FRAME_BYTES or _is_followed(rest):
        return False
    return next_frame(rest, 1) is None


def next_frame(data: bytes, start: int) -> int | None:
    """Where the first whole frame from `start` on begins."""
    heads = (found.start() for found in _HEAD.finditer(data, start))
    return next((at for at in heads if frame_at(data, at) is not None), None)


def _is_followed(rest: bytes) -> bool:
    """Whether a frame that is not whole says of itself that something follows it."""
    if len(rest) < RECORD_OVERHEAD_BYTES:
        return False
    length = int(_LENGTH.unpack_from(rest, 0)[0]) & ~_GROUP
    return 0 < length <= MAX_RECORD_BYTES and RECORD_OVERHEAD_BYTES + length < len(rest)
