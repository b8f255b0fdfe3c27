"""One exchange by hand, through a gateway or with a worker itself: the same bytes either way."""

import asyncio
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from typing import Any, cast

import grpc
import numpy as np
from prefill_data.fleet_token import fleet_metadata
from prefill_data.gateway.fleet import run_whole
from prefill_fleet.pb import fleet_pb2, fleet_pb2_grpc
from prefill_wire.channel import ChunkReceived, ClientChannel, ClientEvent, End
from prefill_wire.digests import chunk_digest, exchange_root, prompt_digest, token_bytes
from prefill_wire.errors import WireError
from prefill_wire.identity import ModelIdentity
from prefill_wire.limits import SUPPORTED_WIRE_VERSIONS, WIRE_VERSION
from prefill_wire.pb import prefill_pb2, prefill_pb2_grpc
from prefill_wire.sealing import AttemptContext, AttemptKeys, Envelope, OneTimeKey

CODECS = ("raw",)
DEADLINE_MS = 60_000
LEASE_SECONDS = 60


@dataclass(frozen=True)
class Prepared:
    """What every exchange of a bench shares; one one-time key is enough where nothing is secret."""

    identity: ModelIdentity
    tokens: np.ndarray
    one_time: OneTimeKey = field(default_factory=OneTimeKey.generate)
    numbers: "count[int]" = field(default_factory=count)

    @cached_property
    def prompt(self) -> bytes:
        """The tokens as they travel."""
        return token_bytes(self.tokens)

    @cached_property
    def digest(self) -> bytes:
        """Of the prompt."""
        return prompt_digest(self.prompt)

    def context(self, request_id: str, attempt: int, tenant: str) -> AttemptContext:
        """What keys are bound to."""
        return AttemptContext(request_id, attempt, tenant, self.digest)

    def keys(self, envelope: Any, context: AttemptContext) -> AttemptKeys:
        """The attempt's keys, from its envelope."""
        sealed = Envelope(envelope.encapsulated_key, envelope.ciphertext)
        return AttemptKeys.derive(self.one_time.open_envelope(sealed, context), context)


class Pulling(asyncio.Protocol):
    """One data connection that asks for everything once it is let in."""

    def __init__(self, channel: ClientChannel) -> None:
        self._channel, self._asked = channel, False
        self._chunks: list[ChunkReceived] = []
        self.all: asyncio.Future[list[ChunkReceived]] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The other side speaks first."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer the greeting, ask, and keep what comes."""
        try:
            for event in self._channel.receive(data):
                self._take(event)
        except WireError as error:
            self._fail(error)
        self._transport.write(self._channel.data_to_send())

    def _take(self, event: ClientEvent) -> None:
        if isinstance(event, ChunkReceived):
            self._chunks.append(event)
        elif isinstance(event, End):
            if not self.all.done():
                self.all.set_result(self._chunks)
        elif not self._asked:  # authenticated: everything is wanted
            self._channel.pull(0, 1 << 16)
            self._asked = True

    def connection_lost(self, error: Exception | None) -> None:
        """Without an end that is a failure."""
        self._fail(error or ConnectionError(f"an end after {len(self._chunks)} chunks"))

    def _fail(self, error: Exception) -> None:
        if not self.all.done():
            self.all.set_exception(error)


async def pull(endpoint: str, capability: bytes, keys: AttemptKeys) -> list[ChunkReceived]:
    """Every chunk over one data connection."""
    host, _, port = endpoint.rpartition(":")
    transport, pulling = await asyncio.get_running_loop().create_connection(
        lambda: Pulling(ClientChannel(capability, keys.connection)), host, int(port)
    )
    try:
        return await pulling.all
    finally:
        transport.abort()


class ThroughGateway:
    """Open, Prompt, every chunk, Claim."""

    def __init__(self, prepared: Prepared, channel: grpc.aio.Channel, api_key: str) -> None:
        self._prepared = prepared
        self._stub = prefill_pb2_grpc.PrefillGatewayStub(channel)
        # A prompt of one part: the same bytes as a stream's, in fewer operations of this process.
        self._prompt = channel.unary_unary(
            "/prefill.v1.PrefillGateway/Prompt",
            request_serializer=prefill_pb2.PromptPart.SerializeToString,
            response_deserializer=prefill_pb2.PromptResponse.FromString,
        )
        self._metadata = (("authorization", f"Bearer {api_key}"),)
        self._open = self._open_request()

    async def __call__(self, _number: int) -> None:
        """One exchange, from Open to the released manifest."""
        prepared, metadata = self._prepared, self._metadata
        request = prefill_pb2.OpenRequest()
        request.CopyFrom(self._open)
        request.idempotency_key = f"bench {next(prepared.numbers)}"
        accept = (await self._stub.Open(request, metadata=metadata)).accept
        part = prefill_pb2.PromptPart(
            request_id=accept.request_id, attempt=accept.attempt, token_ids=prepared.prompt
        )
        answer = await self._prompt(part, metadata=metadata)
        context = prepared.context(accept.request_id, accept.attempt, accept.tenant)
        keys = prepared.keys(answer.envelope, context)
        chunks = await pull(accept.data_endpoint, accept.capability, keys)
        claim = prefill_pb2.ClaimRequest(
            request_id=accept.request_id,
            attempt=accept.attempt,
            root=exchange_root(chunk_digest(chunk.ciphertext) for chunk in chunks),
            chunk_count=len(chunks),
        )
        await self._stub.Claim(claim, metadata=metadata)

    def _open_request(self) -> prefill_pb2.OpenRequest:
        prepared = self._prepared
        return prefill_pb2.OpenRequest(
            wire_versions=SUPPORTED_WIRE_VERSIONS,
            codecs=CODECS,
            model=prepared.identity.message(),
            token_count=len(prepared.tokens),
            prompt_digest=prepared.digest,
            deadline_ms=DEADLINE_MS,
            one_time_public_key=prepared.one_time.public_bytes,
        )


class WithWorker:
    """Admit, Run, every chunk, the worker's last word; as with a gateway the next Admit frees the
    attempt."""

    def __init__(
        self, prepared: Prepared, channel: grpc.aio.Channel, fleet_token: bytes, data_endpoint: str
    ) -> None:
        self._prepared, self._data_endpoint = prepared, data_endpoint
        self._stub = fleet_pb2_grpc.PrefillWorkerStub(channel)
        self._run = run_whole(channel)
        self._metadata = fleet_metadata(fleet_token)
        self._over: list[fleet_pb2.AttemptName] = []
        self._admit = self._admit_request()

    async def __call__(self, _number: int) -> None:
        """One direct call, from Admit to the sealed manifest."""
        prepared, metadata = self._prepared, self._metadata
        request_id = f"req_bench{next(prepared.numbers)}"
        request = fleet_pb2.AdmitRequest()
        request.CopyFrom(self._admit)
        request.request_id = request_id
        request.over.extend(self._over)
        self._over.clear()
        admitted = await self._stub.Admit(request, metadata=metadata)
        run = self._run(
            fleet_pb2.RunPart(request_id=request_id, attempt=1, token_ids=prepared.prompt),
            metadata=metadata,
        )
        started = (await run.read()).started
        keys = prepared.keys(started, prepared.context(request_id, 1, "bench"))
        await pull(self._data_endpoint, admitted.capability, keys)
        finished = (await run.read()).finished
        if not finished.sealed_manifest:
            raise ConnectionError(f"{request_id} ended without a manifest")
        self._over.append(fleet_pb2.AttemptName(request_id=request_id, attempt=1))

    def _admit_request(self) -> fleet_pb2.AdmitRequest:
        prepared, identity = self._prepared, self._prepared.identity
        return fleet_pb2.AdmitRequest(
            attempt=1,
            fencing_epoch=1,
            tenant="bench",
            key_id="key_bench",
            model=identity.name,
            model_fingerprint=identity.fingerprint,
            tokenizer_fingerprint=identity.tokenizer_fingerprint,
            numerics_profile=identity.numerics_profile,
            token_count=len(prepared.tokens),
            prompt_digest=prepared.digest,
            one_time_public_key=prepared.one_time.public_bytes,
            offered_wire_versions=SUPPORTED_WIRE_VERSIONS,
            offered_codecs=CODECS,
            wire_version=WIRE_VERSION,
            max_connections=1,
            deadline_ms=DEADLINE_MS,
            lease_seconds=LEASE_SECONDS,
        )
