"""Typed errors over gRPC: the status of the table, and the detail in trailing metadata."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Self, cast

import grpc
import structlog
from google.protobuf.message import DecodeError
from prefill_wire.errors import WireError
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import STATUS_TABLE, StatusCode
from prometheus_client import Counter

from prefill_data.calls import CallCount, Place
from prefill_data.errors import DataPlaneError

ERROR_METADATA = "prefill-error-bin"
# Trailing metadata beyond a peer's limit would replace the refusal by a bare status.
MAX_TEXT = 512
MAX_REQUEST_ID = 64  # what a caller quotes to us is cut before it reaches a log
Context = grpc.aio.ServicerContext[Any, Any]
log = structlog.get_logger()


def typed(error: Exception) -> DataPlaneError:
    """Any error as one of ours; what is unknown becomes INTERNAL and says nothing of the inside."""
    if isinstance(error, DataPlaneError):
        return error
    if isinstance(error, WireError):
        return DataPlaneError(error.code, error.message, error.remedy)
    if isinstance(error, DecodeError):
        return DataPlaneError(StatusCode.MALFORMED_REQUEST, "a message of the call cannot be read")
    return DataPlaneError(StatusCode.INTERNAL, "an unexpected fault of the service")


async def refuse(context: Context, error: DataPlaneError, request_id: str = "") -> NoReturn:
    """End a call with the error's status and detail."""
    message = error.message[:MAX_TEXT]
    detail = prefill_pb2.ErrorDetail(
        code=error.code,
        message=message,
        remedy=error.remedy[:MAX_TEXT],
        request_id=request_id,
        retry_after_ms=error.retry_after_ms,
    )
    status = grpc.StatusCode[STATUS_TABLE[error.code].grpc_status]
    metadata = ((ERROR_METADATA, detail.SerializeToString()),)
    await context.abort(status, message, trailing_metadata=metadata)
    raise AssertionError("abort raises")


class Guard:
    """Every error of a call becomes a counted, logged, typed refusal; too many calls are one."""

    def __init__(
        self, refusals: Counter, calls: CallCount, new_id: Callable[[], str] = str
    ) -> None:
        """`new_id`: what a refusal calls a request whose own id is not known."""
        self._refusals, self._calls, self.new_id = refusals, calls, new_id

    def call(self, context: Context, name: str, *, always: bool = False) -> Call:
        """The frame of one RPC handler; one that is short and frees something is `always` taken."""
        return Call(self, context, name, self._calls.place(always=always))

    def count(self, refusal: DataPlaneError) -> None:
        """One more."""
        self._refusals.labels(code=refusal.code).inc()


@dataclass(slots=True)
class Call:
    """One call under guard, for as long as it is entered; the request id joins as soon as it is
    known, and its place is its tenant's as soon as it is known whose it is."""

    guard: Guard
    context: Context
    name: str
    place: Place
    request_id: str = ""
    refusal: DataPlaneError | None = None

    async def __aenter__(self) -> Self:
        try:
            self.place.__enter__()
        except DataPlaneError as error:
            await self._refuse(error)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.place.__exit__(kind, error, trace)
        if error is None:
            taken = self.place.answered()
            if taken is not None:
                self.context.add_done_callback(cast(Any, taken))
        elif isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            await self._refuse(error)

    async def _refuse(self, error: Exception) -> NoReturn:
        self.refusal = refusal = typed(error)
        self.guard.count(refusal)
        trace = error if refusal.code is StatusCode.INTERNAL else None
        said = {"code": refusal.code, "message": refusal.message[:MAX_TEXT]}
        named = (self.request_id or self.guard.new_id())[:MAX_REQUEST_ID]
        log.warning(self.name, **said, request_id=named, exc_info=trace)
        await refuse(self.context, refusal, named)


def parse_refusal(error: grpc.aio.AioRpcError, lost: str) -> DataPlaneError:
    """What a peer of ours refused; WORKER_LOST with `lost` when there is no detail."""
    for key, value in error.trailing_metadata() or ():
        if key == ERROR_METADATA and isinstance(value, bytes):
            try:
                detail = prefill_pb2.ErrorDetail.FromString(value)
            except DecodeError:
                break
            if detail.code in StatusCode.__members__:
                return DataPlaneError(
                    StatusCode(detail.code), detail.message, detail.remedy, detail.retry_after_ms
                )
    return DataPlaneError(StatusCode.WORKER_LOST, f"{lost}: {error.code().name}")
