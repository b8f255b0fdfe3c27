"""The request id: made by us, once per request, told in every answer, log line and audit row."""

from __future__ import annotations

import os

from litestar.types import Message, Scope
from prefill_wire.ids import new_request_id

HEADER = b"x-request-id"
_STATE = "prefill_request_id"


def request_id_of(scope: Scope) -> str:
    """The id of this request; made on first use."""
    state = scope.setdefault("state", {})
    if _STATE not in state:
        state[_STATE] = new_request_id(os.urandom)
    return str(state[_STATE])


async def tell_request_id(message: Message, scope: Scope) -> None:
    """A `before_send` hook: every answer carries the id, and is not kept by caches."""
    if message["type"] == "http.response.start":
        headers = [(n, v) for n, v in message.get("headers", []) if n.lower() != HEADER]
        headers.append((HEADER, request_id_of(scope).encode()))
        if not any(name.lower() == b"cache-control" for name, _ in headers):
            headers.append((b"cache-control", b"no-store"))
        headers.append((b"x-content-type-options", b"nosniff"))
        message["headers"] = headers
