"""gRPC failures as exceptions: the cloud's own detail, or what the bare status can mean."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf.message import DecodeError
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import StatusCode

from prefill_cloud.errors import PrefillCloudError, error_for, refusal

ERROR_METADATA = "prefill-error-bin"
_MAX_TEXT = 512

_G, _S = grpc.StatusCode, StatusCode
# What a status without our detail comes from: the transport, a proxy, or a peer that is not ours.
BARE_STATUS: Mapping[grpc.StatusCode, StatusCode] = {
    _G.OK: _S.INTERNAL,
    _G.CANCELLED: _S.NETWORK_UNAVAILABLE,  # a server that stops resets its streams
    _G.UNKNOWN: _S.INTERNAL,
    _G.INVALID_ARGUMENT: _S.MALFORMED_REQUEST,
    _G.DEADLINE_EXCEEDED: _S.NETWORK_UNAVAILABLE,  # the caller's own deadline is kept apart
    _G.NOT_FOUND: _S.ATTEMPT_NOT_FOUND,
    _G.ALREADY_EXISTS: _S.IDEMPOTENCY_CONFLICT,
    _G.PERMISSION_DENIED: _S.PERMISSION_DENIED,
    _G.UNAUTHENTICATED: _S.KEY_NOT_FOUND,
    _G.RESOURCE_EXHAUSTED: _S.CAPACITY_EXHAUSTED,
    _G.FAILED_PRECONDITION: _S.INTERNAL,
    _G.ABORTED: _S.ATTEMPT_FENCED,
    _G.OUT_OF_RANGE: _S.INTERNAL,
    _G.UNIMPLEMENTED: _S.UNSUPPORTED_WIRE_VERSION,
    _G.INTERNAL: _S.INTERNAL,
    _G.UNAVAILABLE: _S.NETWORK_UNAVAILABLE,
    _G.DATA_LOSS: _S.INTEGRITY_FAILURE,
}


def exception_of(error: grpc.aio.AioRpcError, call: str, request_id: str = "") -> PrefillCloudError:
    """The typed exception of a failed call; `call` names it in the message."""
    detail = _detail(error)
    if detail is not None and detail.code in StatusCode.__members__:
        code = StatusCode(detail.code)
        if code is not StatusCode.OK:
            return refusal(
                code,
                detail.message[:_MAX_TEXT],
                detail.request_id[:_MAX_TEXT] or request_id,
                remedy=detail.remedy[:_MAX_TEXT],
                retry_after_ms=detail.retry_after_ms,
            )
    status = error.code()
    words = (error.details() or "no details")[:_MAX_TEXT]
    message = f"{call} failed with {status.name} ({words})."
    return error_for(BARE_STATUS.get(status, StatusCode.INTERNAL), message, request_id)


def hides_refusal(error: grpc.aio.AioRpcError) -> bool:
    """Whether gRPC told its own trouble with sending and not why the peer had ended the call.

    Of a message that cannot be sent any more and the refusal that ended the call, whichever comes
    first is a call's status; to ask again tells the refusal.
    """
    return error.code() is grpc.StatusCode.INTERNAL and _detail(error) is None


def _detail(error: grpc.aio.AioRpcError) -> prefill_pb2.ErrorDetail | None:
    for key, value in error.trailing_metadata() or ():
        if key == ERROR_METADATA and isinstance(value, bytes):
            try:
                return prefill_pb2.ErrorDetail.FromString(value)
            except DecodeError:
                return None
    return None
