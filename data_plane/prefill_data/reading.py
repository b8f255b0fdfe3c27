"""Who calls is asked before a byte of their message is read.

gRPC reads the message of a unary call before it calls anybody: megabytes for each of a connection's
calls, from whoever connects, for as long as a peer likes. So every method is served as one to which
messages stream, and asks for its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.refusals import Context

READ_SECONDS = 30.0  # for a message of a few MiB over a slow line
M = TypeVar("M", bound=Message)


def unread(described: ServiceDescriptor, service: object) -> grpc.GenericRpcHandler:
    """Every method of a service, as `service.Method(messages, context)`."""
    methods = {each.name: _method(each, getattr(service, each.name)) for each in described.methods}
    return grpc.method_handlers_generic_handler(described.full_name, methods)


def health_check() -> grpc.GenericRpcHandler:
    """`Health/Check` of a process that serves. Anybody may call it, so no message of it is read;
    `Watch`, which would last, is not served."""
    described = health_pb2.DESCRIPTOR.services_by_name["Health"]
    method = described.methods_by_name["Check"]
    return grpc.method_handlers_generic_handler(
        described.full_name, {method.name: _method(method, _serving)}
    )


async def _serving(
    _messages: AsyncIterator[health_pb2.HealthCheckRequest], _context: Context
) -> health_pb2.HealthCheckResponse:
    return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


def _method(described: MethodDescriptor, answer: Any) -> grpc.RpcMethodHandler[Any, Any]:
    kind = (
        grpc.stream_stream_rpc_method_handler
        if described.server_streaming
        else grpc.stream_unary_rpc_method_handler
    )
    request, response = (
        GetMessageClass(described.input_type),
        GetMessageClass(described.output_type),
    )
    return kind(answer, request.FromString, response.SerializeToString)


async def whole(messages: AsyncIterator[M]) -> M:
    """The one message of a call; DEADLINE_EXCEEDED when it does not come in its time."""
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
