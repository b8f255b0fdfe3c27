"""The worker's gRPC service, for gateways alone: describe, admit, run, release."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from prefill_fleet.pb import fleet_pb2
from prefill_kernels import pack
from prefill_wire.capability import Capability, issue_capability
from prefill_wire.identity import ModelIdentity, difference
from prefill_wire.limits import MAX_CONNECTIONS, MAX_PROMPT_PART_BYTES, WIRE_VERSION
from prefill_wire.producer import Finished
from prefill_wire.status import StatusCode

from prefill_data.calls import CallCount
from prefill_data.errors import DataPlaneError
from prefill_data.fleet_token import check_fleet_token
from prefill_data.reading import M, whole
from prefill_data.refusals import Call, Context, Guard
from prefill_data.worker.attempts import Admission, Attempt, AttemptBook, Phase
from prefill_data.worker.backend import ModelCapability, PrefillBackend
from prefill_data.worker.codecs import UNNAMED_POLICY, CodecWish, choose_codecs
from prefill_data.worker.metrics import WorkerMetrics
from prefill_data.worker.prefill import AttemptRun, Surroundings, check_prompt

FLEET = ""  # whose calls all are, in the place of a tenant's


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What Describe tells beside the models; the calls under way."""

    certificate: bytes
    data_endpoint: str
    data_tls: bool
    memory_cap_bytes: int
    fleet_token: bytes = field(repr=False)
    capability_key: bytes = field(repr=False)
    calls: CallCount


class WorkerService:
    """Thin: asks for messages, calls the book and the run, turns errors into statuses."""

    def __init__(
        self,
        backend: PrefillBackend,
        book: AttemptBook,
        around: Surroundings,
        listing: Listing,
        metrics: WorkerMetrics,
    ) -> None:
        self._backend, self._book, self._around = backend, book, around
        self._listing, self._metrics = listing, metrics
        self._guard = Guard(metrics.refusals, listing.calls)
        self._models = {m.identity.name: m for m in backend.capabilities()}

    async def Describe(  # noqa: N802
        self, messages: AsyncIterator[fleet_pb2.DescribeRequest], context: Context
    ) -> fleet_pb2.DescribeResponse:
        """Models, certificate, endpoints and load."""
        async with self._guard.call(context, "describe", always=True) as call:
            await self._asked(call, messages)
        return fleet_pb2.DescribeResponse(
            worker_id=self._around.worker_id,
            datacenter=self._around.datacenter,
            certificate=self._listing.certificate,
            data_endpoint=self._listing.data_endpoint,
            data_tls=self._listing.data_tls,
            models=[_served(model) for model in self._models.values()],
            memory_cap_bytes=self._listing.memory_cap_bytes,
            memory_used_bytes=self._book.reserved_bytes,
            attempts_in_flight=len(self._book),
        )

    async def Admit(  # noqa: N802
        self, messages: AsyncIterator[fleet_pb2.AdmitRequest], context: Context
    ) -> fleet_pb2.AdmitResponse:
        """Reserve memory for one attempt and issue its capability."""
        async with self._guard.call(context, "admit") as call:
            request = await self._asked(call, messages)
            call.request_id = request.request_id
            self._free(request.over)
            capability = self._admit(request)
        return fleet_pb2.AdmitResponse(capability=capability)

    def _admit(self, request: fleet_pb2.AdmitRequest) -> bytes:
        admission = self._admission(request)
        needed = self._backend.sequence_bytes(admission.model, admission.token_count)
        self._book.admit(admission, needed)
        capability = Capability(
            admission.request_id,
            admission.attempt,
            self._around.worker_id,
            admission.expires_at_ms,
            admission.max_connections,
        )
        return issue_capability(self._listing.capability_key, capability)

    def _admission(self, request: fleet_pb2.AdmitRequest) -> Admission:
        model = self._model(request.model)
        _check_identity(model, request)
        if not 2 <= request.token_count <= model.max_tokens:
            code = StatusCode.EMPTY_PROMPT if request.token_count < 2 else (
                StatusCode.PROMPT_TOO_LONG)  # fmt: skip
            raise DataPlaneError(
                code, f"{request.token_count} tokens; {request.model} takes 2 to {model.max_tokens}"
            )
        if request.wire_version != WIRE_VERSION:
            raise DataPlaneError(
                StatusCode.UNSUPPORTED_WIRE_VERSION, f"wire version {request.wire_version}"
            )
        wish = CodecWish(
            policy=request.codec_policy or UNNAMED_POLICY,
            offered=tuple(request.offered_codecs),
            permitted=tuple(request.allowed_codecs),
            link_bytes_per_second=request.link_bytes_per_second,
        )
        now_ms = self._around.now_ms()
        return Admission(
            request_id=request.request_id,
            attempt=request.attempt,
            fencing_epoch=request.fencing_epoch,
            tenant=request.tenant,
            key_id=request.key_id,
            model=request.model,
            token_count=request.token_count,
            prompt_digest=request.prompt_digest,
            one_time_public_key=request.one_time_public_key,
            offered_wire_versions=tuple(request.offered_wire_versions),
            offered_codecs=tuple(request.offered_codecs),
            codec_policy=wish.policy,
            codecs=choose_codecs(wish, self._around.codec_speeds),
            max_connections=max(1, min(request.max_connections, MAX_CONNECTIONS)),
            expires_at_ms=now_ms + request.deadline_ms + 1000 * request.lease_seconds,
        )

    def _model(self, name: str) -> ModelCapability:
        if name not in self._models:
            raise DataPlaneError(
                StatusCode.UNKNOWN_MODEL,
                f"model {name!r} is not served here, {', '.join(self._models)} are",
            )
        return self._models[name]

    async def Run(  # noqa: N802
        self, messages: AsyncIterator[fleet_pb2.RunPart], context: Context
    ) -> AsyncIterator[fleet_pb2.RunEvent]:
        """Prompt in, key envelope and manifest out; the call's end before that frees all."""
        attempt: Attempt | None = None
        try:
            async with self._guard.call(context, "run") as call:
                self._authenticate(call)
                call.place.belongs_to(FLEET)
                first = await anext(aiter(messages), fleet_pb2.RunPart())
                call.request_id = first.request_id
                attempt = self._start(first)
                async for event in self._run(attempt, first, messages):
                    yield event
        finally:
            if attempt is not None and attempt.phase is not Phase.FINISHED:
                failure = attempt.store.failure or call.refusal
                code = failure.code if failure is not None else StatusCode.CANCELLED
                self._book.release(attempt.admission.request_id, attempt.admission.attempt, code)
                self._metrics.attempts.labels(outcome=code).inc()

    def _start(self, first: fleet_pb2.RunPart) -> Attempt:
        attempt = self._book.find(first.request_id, first.attempt)
        if attempt.phase is not Phase.ADMITTED:
            raise DataPlaneError(StatusCode.ATTEMPT_FENCED, "this attempt runs already")
        attempt.phase = Phase.RUNNING
        return attempt

    async def _run(
        self,
        attempt: Attempt,
        first: fleet_pb2.RunPart,
        rest: AsyncIterator[fleet_pb2.RunPart],
    ) -> AsyncIterator[fleet_pb2.RunEvent]:
        admission = attempt.admission
        model = self._model(admission.model)
        data = await _read_prompt(first.token_ids, rest, 4 * admission.token_count)
        if attempt.store.failure is not None:  # freed while its prompt came
            raise attempt.store.failure
        tokens = check_prompt(admission, model, data)
        run = AttemptRun(attempt, model, self._around)
        envelope = run.envelope
        yield fleet_pb2.RunEvent(
            started=fleet_pb2.RunStarted(
                encapsulated_key=envelope.encapsulated_key, ciphertext=envelope.ciphertext
            )
        )
        attempt.task = task = asyncio.create_task(run.run(self._backend, tokens))
        try:
            finished = await _result_of(attempt, task)
        finally:
            task.cancel()
        attempt.phase = Phase.FINISHED
        self._book.shrink(attempt)
        self._metrics.finished(admission.token_count)
        yield fleet_pb2.RunEvent(
            finished=fleet_pb2.RunFinished(
                sealed_manifest=finished.sealed_manifest,
                root=finished.root,
                chunk_count=finished.chunk_count,
                receipt=finished.receipt,
            )
        )

    async def Release(  # noqa: N802
        self, messages: AsyncIterator[fleet_pb2.ReleaseRequest], context: Context
    ) -> fleet_pb2.ReleaseResponse:
        """Free attempts; a second time changes nothing."""
        async with self._guard.call(context, "release", always=True) as call:
            self._free((await self._asked(call, messages)).over)
        return fleet_pb2.ReleaseResponse()

    def _free(self, over: Iterable[fleet_pb2.AttemptName]) -> None:
        for each in over:
            self._book.release(each.request_id, each.attempt)

    async def _asked(self, call: Call, messages: AsyncIterator[M]) -> M:
        """What a gateway asks; PERMISSION_DENIED for anybody else."""
        self._authenticate(call)
        call.place.reads(FLEET)
        message = await whole(messages)
        call.place.belongs_to(FLEET)
        return message

    def _authenticate(self, call: Call) -> None:
        check_fleet_token(call.context.invocation_metadata(), self._listing.fleet_token)


async def _result_of(attempt: Attempt, task: asyncio.Task[Finished]) -> Finished:
    try:
        return await task
    except asyncio.CancelledError:
        if attempt.store.failure is not None:  # freed from outside, not by this call's end
            raise attempt.store.failure from None
        raise


async def _read_prompt(first: bytes, rest: AsyncIterator[fleet_pb2.RunPart], size: int) -> bytes:
    """All parts, held to the admitted size while they come; beyond it nothing is read."""
    if len(first) == size:
        return first
    data = bytearray(first)
    async for part in rest:
        if len(part.token_ids) > MAX_PROMPT_PART_BYTES or len(data) + len(part.token_ids) > size:
            raise DataPlaneError(
                StatusCode.PROMPT_MISMATCH, f"the prompt is longer than the {size} bytes admitted"
            )
        data += part.token_ids
    return bytes(data)


def _check_identity(model: ModelCapability, request: fleet_pb2.AdmitRequest) -> None:
    asked = ModelIdentity(
        request.model,
        request.model_fingerprint,
        request.tokenizer_fingerprint,
        request.numerics_profile,
    )
    if found := difference(asked.parts, model.identity.parts):
        part, wanted, served = found
        raise DataPlaneError(
            StatusCode.MODEL_MISMATCH, f"{asked.name}: {part} {wanted} asked for, {served} served"
        )


def _served(model: ModelCapability) -> fleet_pb2.ServedModel:
    identity, schema = model.identity, model.schema
    per_token = schema.nbytes(2) - schema.nbytes(1)
    return fleet_pb2.ServedModel(
        name=identity.name,
        fingerprint=identity.fingerprint,
        tokenizer_fingerprint=identity.tokenizer_fingerprint,
        numerics_profile=identity.numerics_profile,
        max_tokens=model.max_tokens,
        vocab_size=model.vocab_size,
        codecs=pack.names(),
        state_bytes_fixed=schema.nbytes(1) - per_token,
        state_bytes_per_token=per_token,
    )
