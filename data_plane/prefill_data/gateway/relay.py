"""Carries one attempt's prompt to its worker, and waits for the worker's last word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import structlog
from prefill_fleet.pb import fleet_pb2
from prefill_wire.limits import MAX_PROMPT_PART_BYTES
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import StatusCode

from prefill_data.errors import DataPlaneError
from prefill_data.gateway.requests import GatewayAttempt
from prefill_data.refusals import parse_refusal

log = structlog.get_logger()
Parts = AsyncIterator[prefill_pb2.PromptPart]


async def relay_prompt(
    attempt: GatewayAttempt, first: bytes, rest: Parts
) -> prefill_pb2.KeyEnvelope:
    """Send the prompt on; the envelope once the worker has it all. A second call gets the same.

    Whatever breaks ends the attempt: a new Open makes the next one.
    """
    if attempt.death is not None:
        raise attempt.death
    if attempt.prompted:
        if attempt.envelope is None:
            raise DataPlaneError(StatusCode.ATTEMPT_FENCED, "this attempt's prompt is on its way")
        return attempt.envelope
    attempt.prompted = True
    call = attempt.link.stub.Run(metadata=attempt.link.metadata)
    sending = asyncio.create_task(_begin(attempt, call, first, rest))
    sending.add_done_callback(lambda task: task.cancelled() or task.exception())
    either: set[asyncio.Future[Any]] = {sending, attempt.finished}
    try:
        # Whatever ends the attempt ends this too, however slowly its prompt comes.
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if attempt.death is not None:
            raise attempt.death
        attempt.envelope = sending.result()
    except BaseException as error:
        sending.cancel()
        call.cancel()
        refusal = _why(error)
        attempt.fail(refusal)
        if isinstance(error, grpc.aio.AioRpcError):
            raise refusal from None
        raise
    attempt.relay = asyncio.create_task(_await_end(attempt, call))
    return attempt.envelope


def _why(error: BaseException) -> DataPlaneError:
    if isinstance(error, DataPlaneError):
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        return parse_refusal(error, "the worker left while the prompt was sent")
    return DataPlaneError(StatusCode.CANCELLED, "the prompt did not come whole")


async def _begin(
    attempt: GatewayAttempt, call: Any, first: bytes, rest: Parts
) -> prefill_pb2.KeyEnvelope:
    """Send the prompt, unless the worker ends the call before the last part has come."""
    sending = asyncio.create_task(_send(attempt, call, first, rest))
    ended = asyncio.create_task(call.code())
    either: set[asyncio.Task[Any]] = {sending, ended}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
    except asyncio.InvalidStateError:
        log.info("the worker ended the call", request_id=attempt.admitted.request_id)
    finally:
        for task in either:
            task.cancel()
        await asyncio.gather(*either, return_exceptions=True)
    return _envelope(await call.read())  # also tells why a call was ended between two parts


async def _send(attempt: GatewayAttempt, call: Any, first: bytes, rest: Parts) -> None:
    """Parts as they come, held to the admitted size: a gateway keeps no prompt."""
    admitted, sent = attempt.admitted, 0
    message = fleet_pb2.RunPart(request_id=admitted.request_id, attempt=admitted.attempt)

    async def parts() -> AsyncIterator[bytes]:
        yield first
        async for part in rest:
            yield part.token_ids

    async for token_ids in parts():
        sent += len(token_ids)
        if len(token_ids) > MAX_PROMPT_PART_BYTES or sent > 4 * admitted.token_count:
            raise DataPlaneError(
                StatusCode.PROMPT_MISMATCH,
                f"a part of {len(token_ids)} bytes makes {sent}; a part has at most "
                f"{MAX_PROMPT_PART_BYTES}, the prompt {4 * admitted.token_count}",
            )
        message.token_ids = token_ids
        await call.write(message)
        message = fleet_pb2.RunPart()
    await call.done_writing()


def _envelope(event: Any) -> prefill_pb2.KeyEnvelope:
    if event is grpc.aio.EOF or event.WhichOneof("event") != "started":
        raise DataPlaneError(StatusCode.WORKER_LOST, "the worker ended before it began")
    started = event.started
    return prefill_pb2.KeyEnvelope(
        encapsulated_key=started.encapsulated_key, ciphertext=started.ciphertext
    )


async def _await_end(attempt: GatewayAttempt, call: Any) -> None:
    """Resolve `finished`; cancelling this task cancels the worker's attempt within one step."""
    try:
        event = await call.read()
        if event is grpc.aio.EOF or event.WhichOneof("event") != "finished":
            raise DataPlaneError(StatusCode.WORKER_LOST, "the worker ended without a manifest")
        if not attempt.finished.done():
            attempt.finished.set_result(event.finished)
    except grpc.aio.AioRpcError as error:
        attempt.fail(parse_refusal(error, "the worker left while it prefilled"))
    except DataPlaneError as error:
        attempt.fail(error)
    finally:
        call.cancel()
        failure = attempt.finished.exception() if attempt.finished.done() else None
        if isinstance(failure, DataPlaneError):
            log.info("attempt ended", code=failure.code, request_id=attempt.admitted.request_id)
