"""Carries one attempt's prompt to its worker, and waits for the worker's last word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, cast

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
Started = asyncio.Future[prefill_pb2.KeyEnvelope]


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
    started: Started = asyncio.get_running_loop().create_future()
    attempt.relay = asyncio.create_task(_carry(attempt, first, rest, started))
    attempt.relay.add_done_callback(partial(_broken_off, attempt))
    # Whatever ends the attempt ends this too, however slowly its prompt comes.
    attempt.finished.add_done_callback(partial(_ended, attempt, started))
    try:
        return await started  # also of an attempt that has died since: its chunks will say so
    except asyncio.CancelledError:
        attempt.fail(_incomplete())
        raise


async def _carry(attempt: GatewayAttempt, first: bytes, rest: Parts, started: Started) -> None:
    """The prompt to the worker, `started`, then `finished`; cancelling this task cancels the
    worker's attempt within one step."""
    link, call = attempt.link, None
    try:
        if len(first) == 4 * attempt.admitted.token_count <= MAX_PROMPT_PART_BYTES:
            await _nothing_more(attempt, rest)
            call = link.run_whole(_first_part(attempt, first), metadata=link.metadata)
        else:
            call = link.stub.Run(metadata=link.metadata)
            await _send_all(attempt, call, first, rest)
        attempt.envelope = _envelope(await call.read())
        if not started.done():  # its customer has just left
            started.set_result(attempt.envelope)
        finished = _finished(await call.read())
        if not attempt.finished.done():
            attempt.finished.set_result(finished)
    except grpc.aio.AioRpcError as error:
        when = "while it prefilled" if started.done() else "while the prompt was sent"
        attempt.fail(parse_refusal(error, f"the worker left {when}"))
    except DataPlaneError as error:
        attempt.fail(error)
    finally:
        if call is not None and not (attempt.finished.done() and attempt.death is None):
            call.cancel()
        if attempt.death is not None:
            log.info("attempt ended", code=attempt.death.code,
                     request_id=attempt.admitted.request_id)  # fmt: skip


def _ended(attempt: GatewayAttempt, started: Started, _finished: object) -> None:
    if attempt.death is not None and not started.done():
        started.set_exception(attempt.death)


def _broken_off(attempt: GatewayAttempt, relay: asyncio.Task[None]) -> None:
    """A relay that was cancelled, or that could not read its customer, leaves nothing behind."""
    if relay.cancelled() or relay.exception() is not None:
        attempt.fail(_incomplete())


def _incomplete() -> DataPlaneError:
    return DataPlaneError(StatusCode.CANCELLED, "the prompt did not come whole")


async def _send_all(attempt: GatewayAttempt, call: Any, first: bytes, rest: Parts) -> None:
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


async def _send(attempt: GatewayAttempt, call: Any, first: bytes, rest: Parts) -> None:
    """Parts as they come, held to the admitted size: a gateway keeps no prompt."""
    sent = len(first)
    _check_part(attempt, first, sent)
    await call.write(_first_part(attempt, first))
    async for part in rest:
        sent += len(part.token_ids)
        _check_part(attempt, part.token_ids, sent)
        await call.write(fleet_pb2.RunPart(token_ids=part.token_ids))
    await call.done_writing()


async def _nothing_more(attempt: GatewayAttempt, rest: Parts) -> None:
    async for part in rest:
        _check_part(attempt, part.token_ids, 4 * attempt.admitted.token_count + len(part.token_ids))


def _check_part(attempt: GatewayAttempt, token_ids: bytes, sent: int) -> None:
    """PROMPT_MISMATCH for a part with which `sent` bytes are more than a prompt may have."""
    most = 4 * attempt.admitted.token_count
    if len(token_ids) > MAX_PROMPT_PART_BYTES or sent > most:
        raise DataPlaneError(
            StatusCode.PROMPT_MISMATCH,
            f"a part of {len(token_ids)} bytes makes {sent}; a part has at most "
            f"{MAX_PROMPT_PART_BYTES}, the prompt {most}",
        )


def _first_part(attempt: GatewayAttempt, token_ids: bytes) -> fleet_pb2.RunPart:
    admitted = attempt.admitted
    return fleet_pb2.RunPart(
        request_id=admitted.request_id, attempt=admitted.attempt, token_ids=token_ids
    )


def _envelope(event: Any) -> prefill_pb2.KeyEnvelope:
    if event is grpc.aio.EOF or event.WhichOneof("event") != "started":
        raise DataPlaneError(StatusCode.WORKER_LOST, "the worker ended before it began")
    started = event.started
    return prefill_pb2.KeyEnvelope(
        encapsulated_key=started.encapsulated_key, ciphertext=started.ciphertext
    )


def _finished(event: Any) -> fleet_pb2.RunFinished:
    if event is grpc.aio.EOF or event.WhichOneof("event") != "finished":
        raise DataPlaneError(StatusCode.WORKER_LOST, "the worker ended without a manifest")
    return cast(fleet_pb2.RunFinished, event.finished)
