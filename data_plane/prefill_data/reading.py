"""Who calls is asked before a byte of their message is read.

gRPC reads the message of a unary call before it calls anybody: megabytes for each of a connection's
calls, from whoever connects, for as long as a peer likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.refusals import Context, Guard

READ_SECONDS = 30.0  # for a message of a few MiB over a slow line
# Anybody may call these, so their messages are not read: each is taken for this one.
OPEN_TO_ALL: Mapping[str, Message] = {
    "/grpc.health.v1.Health/Check": health_pb2.HealthCheckRequest()
}
Answer = Callable[[Any, Context], Awaitable[Any]]


class KeyBeforeMessage(grpc.aio.ServerInterceptor):
    """Reads the message of a unary call under a place of its caller's; a call with a message and
    many answers is not served, since none of ours is."""

    def __init__(
        self, guard: Guard, tenant_of: Callable[[Context], str], new_id: Callable[[], str] = str
    ) -> None:
        """`tenant_of` raises what a caller is refused with; "" when callers are of no tenant.
        `new_id`: what a refusal calls a request whose own id was not read."""
        self._guard, self._tenant_of, self._new_id = guard, tenant_of, new_id

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The same method, which asks for its message itself."""
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        if handler.response_streaming:
            return None
        behaviour = (
            partial(_unread, handler.unary_unary, OPEN_TO_ALL[method])
            if method in OPEN_TO_ALL
            else partial(self._read, handler.unary_unary, method.rpartition("/")[2].lower())
        )
        return grpc.stream_unary_rpc_method_handler(
            behaviour, handler.request_deserializer, handler.response_serializer
        )

    async def _read(
        self, answer: Answer, name: str, messages: AsyncIterator[Any], context: Context
    ) -> Any:
        async with self._guard.call(context, name) as call:
            try:
                tenant = self._tenant_of(context)
                if tenant:
                    call.place.belongs_to(tenant)
                message = await _whole(messages)
            except Exception:
                call.request_id = self._new_id()  # the guard counts and logs it
                raise
        return await answer(message, context)


async def _unread(
    answer: Answer, message: Message, _messages: AsyncIterator[Any], context: Context
) -> Any:
    return await answer(message, context)


async def _whole(messages: AsyncIterator[Any]) -> Any:
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await anext(aiter(messages))
    except TimeoutError:
        raise DataPlaneError(
            StatusCode.DEADLINE_EXCEEDED, f"no whole message came within {READ_SECONDS:g} s"
        ) from None
    except (StopAsyncIteration, DecodeError):
        raise DataPlaneError(
            StatusCode.MALFORMED_REQUEST, "the call has no message that can be read"
        ) from None
