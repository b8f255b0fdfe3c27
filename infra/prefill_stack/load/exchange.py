"""One exchange by hand, through a gateway or with a worker itself: the same bytes either way."""

import asyncio
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import grpc
import numpy as np
from prefill_data.fleet_token import fleet_metadata
from prefill_fleet.pb import fleet_pb2, fleet_pb2_grpc
from prefill_wire.channel import ChunkReceived, ClientChannel, End
from prefill_wire.digests import chunk_digest, exchange_root, prompt_digest, token_bytes
from prefill_wire.identity import ModelIdentity
from prefill_wire.limits import SUPPORTED_WIRE_VERSIONS, WIRE_VERSION
from prefill_wire.pb import prefill_pb2, prefill_pb2_grpc
from prefill_wire.sealing import AttemptContext, AttemptKeys, Envelope, OneTimeKey

CODECS = ("raw",)
DEADLINE_MS = 60_000
LEASE_SECONDS = 60
READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Prepared:
    """What every exchange of a bench shares; one one-time key is enough where nothing is secret."""

    identity: ModelIdentity
    tokens: np.ndarray
    one_time: OneTimeKey = field(default_factory=OneTimeKey.generate)
    numbers: "count[int]" = field(default_factory=count)

    @property
    def prompt(self) -> bytes:
        """The tokens as they travel."""
        return token_bytes(self.tokens)

    def context(self, request_id: str, attempt: int, tenant: str) -> AttemptContext:
        """What keys are bound to."""
        return AttemptContext(request_id, attempt, tenant, prompt_digest(self.prompt))

    def keys(self, envelope: Any, context: AttemptContext) -> AttemptKeys:
        """The attempt's keys, from its envelope."""
        sealed = Envelope(envelope.encapsulated_key, envelope.ciphertext)
        return AttemptKeys.derive(self.one_time.open_envelope(sealed, context), context)


async def pull(endpoint: str, capability: bytes, keys: AttemptKeys) -> list[ChunkReceived]:
    """Every chunk over one data connection."""
    host, _, port = endpoint.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    channel, chunks = ClientChannel(capability, keys.connection), []
    asked = False
    try:
        while data := await reader.read(READ_BYTES):
            for event in channel.receive(data):
                if isinstance(event, ChunkReceived):
                    chunks.append(event)
                elif isinstance(event, End):
                    return chunks
                elif not asked:  # authenticated: everything is wanted
                    channel.pull(0, 1 << 16)
                    asked = True
            writer.write(channel.data_to_send())
    finally:
        writer.transport.abort()
    raise ConnectionError(f"{endpoint} ended after {len(chunks)} chunks")


@dataclass(frozen=True)
class ThroughGateway:
    """Open, Prompt, every chunk, Claim."""

    prepared: Prepared
    channel: grpc.aio.Channel
    api_key: str = field(repr=False)

    async def __call__(self, _number: int) -> None:
        """One exchange, from Open to the released manifest."""
        prepared = self.prepared
        stub = prefill_pb2_grpc.PrefillGatewayStub(self.channel)
        metadata = (("authorization", f"Bearer {self.api_key}"),)
        opened = await stub.Open(self._open_request(), metadata=metadata)
        accept = opened.accept
        context = prepared.context(accept.request_id, accept.attempt, accept.tenant)

        async def parts() -> Any:
            yield prefill_pb2.PromptPart(
                request_id=accept.request_id, attempt=accept.attempt, token_ids=prepared.prompt
            )

        answer = await stub.Prompt(parts(), metadata=metadata)
        keys = prepared.keys(answer.envelope, context)
        chunks = await pull(accept.data_endpoint, accept.capability, keys)
        claim = prefill_pb2.ClaimRequest(
            request_id=accept.request_id,
            attempt=accept.attempt,
            root=exchange_root(chunk_digest(chunk.ciphertext) for chunk in chunks),
            chunk_count=len(chunks),
        )
        await stub.Claim(claim, metadata=metadata)

    def _open_request(self) -> prefill_pb2.OpenRequest:
        prepared = self.prepared
        return prefill_pb2.OpenRequest(
            wire_versions=SUPPORTED_WIRE_VERSIONS,
            codecs=CODECS,
            model=prepared.identity.message(),
            token_count=len(prepared.tokens),
            prompt_digest=prompt_digest(prepared.prompt),
            deadline_ms=DEADLINE_MS,
            idempotency_key=f"bench {next(prepared.numbers)}",
            one_time_public_key=prepared.one_time.public_bytes,
        )


@dataclass(frozen=True)
class WithWorker:
    """Admit, Run, every chunk, the worker's last word; the attempt is freed beside."""

    prepared: Prepared
    channel: grpc.aio.Channel
    fleet_token: bytes = field(repr=False)
    data_endpoint: str

    async def __call__(self, _number: int) -> None:
        """One direct call, from Admit to the sealed manifest."""
        prepared, metadata = self.prepared, fleet_metadata(self.fleet_token)
        stub = fleet_pb2_grpc.PrefillWorkerStub(self.channel)
        request_id = f"req_bench{next(prepared.numbers)}"
        admitted = await stub.Admit(self._admit_request(request_id), metadata=metadata)
        run = stub.Run(metadata=metadata)
        await run.write(
            fleet_pb2.RunPart(request_id=request_id, attempt=1, token_ids=prepared.prompt)
        )
        await run.done_writing()
        started = (await run.read()).started
        keys = prepared.keys(started, prepared.context(request_id, 1, "bench"))
        await pull(self.data_endpoint, admitted.capability, keys)
        finished = (await run.read()).finished
        run.cancel()
        if not finished.sealed_manifest:
            raise ConnectionError(f"{request_id} ended without a manifest")
        release = fleet_pb2.ReleaseRequest(request_id=request_id, attempt=1)
        stub.Release(release, metadata=metadata)  # as a gateway does: nobody waits for it

    def _admit_request(self, request_id: str) -> fleet_pb2.AdmitRequest:
        prepared, identity = self.prepared, self.prepared.identity
        return fleet_pb2.AdmitRequest(
            request_id=request_id,
            attempt=1,
            fencing_epoch=1,
            tenant="bench",
            key_id="key_bench",
            model=identity.name,
            model_fingerprint=identity.fingerprint,
            tokenizer_fingerprint=identity.tokenizer_fingerprint,
            numerics_profile=identity.numerics_profile,
            token_count=len(prepared.tokens),
            prompt_digest=prompt_digest(prepared.prompt),
            one_time_public_key=prepared.one_time.public_bytes,
            offered_wire_versions=SUPPORTED_WIRE_VERSIONS,
            offered_codecs=CODECS,
            wire_version=WIRE_VERSION,
            codec=CODECS[0],
            max_connections=1,
            deadline_ms=DEADLINE_MS,
            lease_seconds=LEASE_SECONDS,
        )
