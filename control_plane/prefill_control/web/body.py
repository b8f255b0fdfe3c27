"""A request's body, read once: size, encoding and depth are checked before anything parses it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from litestar.types import HTTPReceiveMessage, Receive

from prefill_control.errors import ControlError, ProblemCode

_OPEN, _CLOSE = frozenset(b"[{"), frozenset(b"]}")
_QUOTE, _BACKSLASH = ord('"'), ord("\\")


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What a body may be at most."""

    max_bytes: int
    max_depth: int


async def read_body(receive: Receive, declared: str, limits: BodyLimits) -> bytes:
    """The whole body; refused as soon as it is known to be too large."""
    if declared.isdecimal() and int(declared) > limits.max_bytes:
        raise _too_large(int(declared), limits)
    parts: list[bytes] = []
    total = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ControlError(ProblemCode.MALFORMED_REQUEST, "the caller left within the body")
        if message["type"] == "http.request":
            parts.append(message["body"])
            total += len(message["body"])
            if total > limits.max_bytes:
                raise _too_large(total, limits)
            if not message.get("more_body"):
                return b"".join(parts)


def check_json(body: bytes, limits: BodyLimits) -> None:
    """UTF-8, and not nested deeper than the limit; whether it is JSON, its parser says."""
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ControlError(
            ProblemCode.MALFORMED_REQUEST, f"the body is not UTF-8 at byte {error.start}"
        ) from None
    depth = deepest(body)
    if depth > limits.max_depth:
        raise ControlError(
            ProblemCode.MALFORMED_REQUEST,
            f"the JSON is nested {depth} deep, the limit is {limits.max_depth}",
        )


def deepest(body: bytes) -> int:
    """How deep brackets nest outside of strings."""
    depth = most = 0
    in_string = escaped = False
    for byte in body:
        if in_string:
            in_string = escaped or byte != _QUOTE
            escaped = byte == _BACKSLASH and not escaped
        elif byte == _QUOTE:
            in_string = True
        elif byte in _OPEN:
            depth += 1
            most = max(most, depth)
        elif byte in _CLOSE:
            depth -= 1
    return most


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body once more, then what the connection says."""
    messages: deque[HTTPReceiveMessage] = deque(
        [{"type": "http.request", "body": body, "more_body": False}]
    )

    async def again() -> HTTPReceiveMessage:
        return messages.popleft() if messages else await receive()  # type: ignore[return-value]

    return again


def _too_large(size: int, limits: BodyLimits) -> ControlError:
    return ControlError(
        ProblemCode.BODY_TOO_LARGE, f"the body has {size} bytes, the limit is {limits.max_bytes}"
    )
