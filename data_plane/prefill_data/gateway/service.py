"""The public gRPC service: thin, every decision lies in the modules beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import structlog
from prefill_wire.identity import ModelIdentity
from prefill_wire.pb import prefill_pb2
from prefill_wire.status import StatusCode

from prefill_data.calls import CallCount
from prefill_data.errors import DataPlaneError
from prefill_data.gateway.admission import OpeningRules
from prefill_data.gateway.billed import Billed
from prefill_data.gateway.callers import caller_of
from prefill_data.gateway.claims import Claims
from prefill_data.gateway.fleet import Fleet, served_identity
from prefill_data.gateway.keys import ApiKey
from prefill_data.gateway.live import Live
from prefill_data.gateway.metrics import GatewayMetrics
from prefill_data.gateway.opening import Opener
from prefill_data.gateway.relay import relay_prompt
from prefill_data.gateway.requests import GatewayAttempt, RequestBook
from prefill_data.metering.shipper import Shipper
from prefill_data.reading import M, whole
from prefill_data.refusals import Call, Context, Guard

log = structlog.get_logger()
FIRST_PART_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayParts:
    """What the service calls."""

    live: Live
    fleet: Fleet
    book: RequestBook
    opener: Opener
    rules: OpeningRules
    claims: Claims
    metrics: GatewayMetrics
    calls: CallCount
    shipper: Shipper | None = None

    def end_overdue(self, now_ms: int) -> None:
        """End what is beyond its deadline or lease; Unix milliseconds."""
        self.book.expire(now_ms)


class GatewayService:
    """Open, Prompt, Claim, Cancel, ListModels; each asks for its messages itself."""

    def __init__(self, parts: GatewayParts) -> None:
        self._parts = parts
        self._guard = Guard(parts.metrics.refusals, parts.calls, parts.opener.new_id)

    async def Open(  # noqa: N802
        self, messages: AsyncIterator[prefill_pb2.OpenRequest], context: Context
    ) -> prefill_pb2.OpenResponse:
        """Key, limits, place, admission."""
        opener = self._parts.opener
        async with self._guard.call(context, "open") as call:
            call.request_id = opener.new_id()
            key, request = await self._asked(call, messages)
            call.place.belongs_to(key.tenant)
            call.request_id, response = await opener.open(key, request, call.request_id)
            outcome = response.WhichOneof("outcome") or ""
            self._parts.metrics.opens.labels(outcome=outcome).inc()
            log.info("open", outcome=outcome, tenant=key.tenant, tokens=request.token_count,
                     request_id=call.request_id)  # fmt: skip
        return response

    async def Prompt(  # noqa: N802
        self, messages: AsyncIterator[prefill_pb2.PromptPart], context: Context
    ) -> prefill_pb2.PromptResponse:
        """The prompt on to the worker, the envelope back."""
        async with self._guard.call(context, "prompt") as call:
            key = caller_of(self._parts.live.keys, context)
            call.place.belongs_to(key.tenant)
            first = await _first_part(messages)
            call.request_id = first.request_id
            attempt = self._find(key, first.request_id, first.attempt)
            if isinstance(attempt, Billed):
                envelope = await self._parts.claims.prompted(attempt)
            else:
                envelope = await relay_prompt(attempt, first.token_ids, messages)
        return prefill_pb2.PromptResponse(envelope=envelope)

    async def Claim(  # noqa: N802
        self, messages: AsyncIterator[prefill_pb2.ClaimRequest], context: Context
    ) -> prefill_pb2.ClaimResponse:
        """Durable receipt, then the manifest; again and again the same."""
        async with self._guard.call(context, "claim") as call:
            key, request = await self._asked(call, messages)
            call.request_id = request.request_id
            attempt = self._find(key, request.request_id, request.attempt)
            # What waits for nobody is taken however many calls there are: it frees a worker.
            done = isinstance(attempt, Billed) or attempt.finished.done()
            call.place.belongs_to(key.tenant, always=done)
            billed = await self._parts.claims.answer(attempt, request)
        return prefill_pb2.ClaimResponse(
            sealed_manifest=billed.sealed_manifest,
            receipt=billed.receipt,
            amount_micros=billed.amount_micros,
        )

    async def Cancel(  # noqa: N802
        self, messages: AsyncIterator[prefill_pb2.CancelRequest], context: Context
    ) -> prefill_pb2.CancelResponse:
        """End an attempt; what was billed stays billed."""
        async with self._guard.call(context, "cancel", always=True) as call:
            key, request = await self._asked(call, messages)
            call.request_id = request.request_id
            call.place.belongs_to(key.tenant)
            attempt = self._find(key, request.request_id, request.attempt)
            if isinstance(attempt, GatewayAttempt):
                attempt.fail(DataPlaneError(StatusCode.CANCELLED, "cancelled by its caller"))
        return prefill_pb2.CancelResponse()

    async def ListModels(  # noqa: N802
        self, messages: AsyncIterator[prefill_pb2.ListModelsRequest], context: Context
    ) -> prefill_pb2.ListModelsResponse:
        """What the live workers of this datacenter serve."""
        async with self._guard.call(context, "models") as call:
            key, _ = await self._asked(call, messages)
            call.place.belongs_to(key.tenant)
            models = self._listed()
        hint = self._parts.rules.hint()
        return prefill_pb2.ListModelsResponse(models=models, policy_hint=hint)

    def _listed(self) -> list[prefill_pb2.ListedModel]:
        found: dict[ModelIdentity, int] = {}
        for link in self._parts.fleet.live():
            for model in link.view.said.models if link.view is not None else ():
                identity = served_identity(model)
                found[identity] = max(found.get(identity, 0), model.max_tokens)
        here = [self._parts.fleet.datacenter]
        return [
            prefill_pb2.ListedModel(identity=i.message(), max_tokens=n, datacenters=here)
            for i, n in found.items()
        ]

    async def _asked(self, call: Call, messages: AsyncIterator[M]) -> tuple[ApiKey, M]:
        """Whose call it is, and then what it asks."""
        key = caller_of(self._parts.live.keys, call.context)
        call.place.reads(key.tenant)
        return key, await whole(messages)

    def _find(self, key: ApiKey, request_id: str, attempt: int) -> GatewayAttempt | Billed:
        return self._parts.book.find(key.tenant, request_id, attempt)


async def _first_part(parts: AsyncIterator[prefill_pb2.PromptPart]) -> prefill_pb2.PromptPart:
    """The part that names the attempt; until it is here no deadline is known."""
    try:
        async with asyncio.timeout(FIRST_PART_SECONDS):
            return await anext(aiter(parts), prefill_pb2.PromptPart())
    except TimeoutError:
        raise DataPlaneError(
            StatusCode.DEADLINE_EXCEEDED, f"no part of a prompt came within {FIRST_PART_SECONDS} s"
        ) from None
