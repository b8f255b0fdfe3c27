"""A customer written by hand on raw stubs and sockets: it can do what the SDK never would."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest
from in_process_cloud import CONTROL, bearer
from prefill_cloud.intake import decode_payload
from prefill_wire.channel import ChunkReceived, ClientChannel, End, Ready
from prefill_wire.digests import prompt_digest, token_bytes
from prefill_wire.expected import ExpectedState
from prefill_wire.limits import SUPPORTED_WIRE_VERSIONS
from prefill_wire.pb import prefill_pb2
from prefill_wire.receiver import StateReceiver
from prefill_wire.sealing import AttemptContext, AttemptKeys, Envelope, OneTimeKey
from prefill_wire.tensors import TensorKind
from stand_in_backend import IDENTITY, SCHEMA

TOKENS = np.arange(20, dtype=np.uint32)
CODECS = ("planes-zstd", "raw")


@asynccontextmanager
async def refused(code):
    """A typed refusal with this code is expected; gives its ErrorDetail once it has come."""
    found = prefill_pb2.ErrorDetail()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield found
    found.CopyFrom(detail_of(caught.value))
    assert found.code == code, f"{found.code}: {found.message}"
    assert found.message
    assert found.remedy


def detail_of(error):
    """The ErrorDetail of a refusal; fails for a bare status."""
    details = [v for k, v in error.trailing_metadata() or () if k == "prefill-error-bin"]
    assert details, f"untyped: {error.code()} {error.details()}"
    return prefill_pb2.ErrorDetail.FromString(details[0])


@dataclass
class DataWire:
    """One data connection, driven by hand."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    channel: ClientChannel

    async def events(self):
        """The next events; an empty list at the end of the connection."""
        data = await self.reader.read(1 << 16)
        events = self.channel.receive(data) if data else []
        self.writer.write(self.channel.data_to_send())
        return events if events or not data else await self.events()

    async def ready(self):
        """Authenticate; the first event, which is Ready or Refused."""
        return (await self.events())[0]

    async def pull(self, first=0, count=1000, most=None):
        """Chunks by index until END, the end of the connection, or `most` of them."""
        self.channel.pull(first, count)
        self.writer.write(self.channel.data_to_send())
        chunks = {}
        while most is None or len(chunks) < most:
            events = await self.events()
            for event in events:
                if isinstance(event, ChunkReceived):
                    chunks[event.header.index] = event
            if not events or any(isinstance(event, End) for event in events):
                return chunks
        return chunks

    def cut(self):
        """Break the connection without a word."""
        self.writer.transport.abort()


@dataclass
class HandClient:
    """One request of one tenant."""

    cloud: object
    tenant: str = "acme"
    tokens: np.ndarray = field(default_factory=lambda: TOKENS)
    key: str = "idem"
    one_time: OneTimeKey = field(default_factory=OneTimeKey.generate)
    accept: object = None
    keys: object = None

    @property
    def metadata(self):
        return bearer(self.tenant)

    def open_request(self, **changes):
        """A good Open; `changes` spoil it."""
        fields = {
            "wire_versions": SUPPORTED_WIRE_VERSIONS, "codecs": CODECS,
            "model": IDENTITY.message(), "token_count": len(self.tokens),
            "prompt_digest": prompt_digest(token_bytes(self.tokens)), "deadline_ms": 30_000,
            "idempotency_key": self.key, "one_time_public_key": self.one_time.public_bytes,
        }  # fmt: skip
        return prefill_pb2.OpenRequest(**{**fields, **changes})

    async def open(self, **changes):
        """The answer to Open; an Accept is kept."""
        request = self.open_request(**changes)
        answer = await self.cloud.stub.Open(request, metadata=self.metadata)
        self.accept = answer.accept
        return answer

    def parts(self, size=1 << 20, data=None):
        """The prompt as Prompt takes it."""
        data = token_bytes(self.tokens) if data is None else data
        for start in range(0, max(1, len(data)), size):
            part = prefill_pb2.PromptPart(token_ids=data[start : start + size])
            if start == 0:
                part.request_id, part.attempt = self.accept.request_id, self.accept.attempt
            yield part

    async def prompt(self, parts=None):
        """Send the prompt and derive the keys."""
        parts = list(self.parts()) if parts is None else parts
        answer = await self.cloud.stub.Prompt(_stream(parts), metadata=self.metadata)
        envelope = Envelope(answer.envelope.encapsulated_key, answer.envelope.ciphertext)
        secret = self.one_time.open_envelope(envelope, self.context)
        self.keys = AttemptKeys.derive(secret, self.context)
        return answer

    @property
    def context(self):
        digest = prompt_digest(token_bytes(self.tokens))
        accept = self.accept
        return AttemptContext(accept.request_id, accept.attempt, accept.tenant, digest)

    @asynccontextmanager
    async def wire(self, capability=None, connection_key=None):
        """A raw data connection; `ready()` has not been awaited yet."""
        host, port = self.accept.data_endpoint.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        capability = capability or self.accept.capability
        channel = ClientChannel(capability, connection_key or self.keys.connection)
        wire = DataWire(reader, writer, channel)
        try:
            yield wire
        finally:
            wire.cut()

    async def download(self):
        """Every chunk, in order."""
        async with self.wire() as wire:
            assert isinstance(await wire.ready(), Ready)
            chunks = await wire.pull()
        return [chunks[index] for index in range(len(chunks))]

    async def through(self):
        """Open, Prompt and all chunks."""
        await self.open()
        await self.prompt()
        return await self.download()

    def claim_request(self, chunks, **changes):
        """A good Claim; `changes` spoil it."""
        receiver = self.receiver()
        for chunk in chunks:
            receiver.accept(chunk.header, chunk.ciphertext)
        fields = {"request_id": self.accept.request_id, "attempt": self.accept.attempt,
                  "root": receiver.root(), "chunk_count": len(chunks)}  # fmt: skip
        return prefill_pb2.ClaimRequest(**{**fields, **changes})

    async def claim(self, chunks, **changes):
        request = self.claim_request(chunks, **changes)
        return await self.cloud.stub.Claim(request, metadata=self.metadata)

    async def cancel(self, **changes):
        fields = {"request_id": self.accept.request_id, "attempt": self.accept.attempt, **changes}
        return await self.cloud.stub.Cancel(
            prefill_pb2.CancelRequest(**fields), metadata=self.metadata
        )

    def receiver(self, schema=SCHEMA):
        """The SDK's receiver, fed by hand."""
        accept = self.accept
        expected = ExpectedState(
            context=self.context, schema=schema, token_count=len(self.tokens),
            model_fingerprint=IDENTITY.fingerprint, numerics_profile="fp32",
            tokenizer_fingerprint=IDENTITY.tokenizer_fingerprint,
            one_time_key_hash=self.one_time.key_hash,
            offered_wire_versions=SUPPORTED_WIRE_VERSIONS, offered_codecs=CODECS,
            codec_policy="exact", allowed_codecs=dict.fromkeys(TensorKind, CODECS),
            fencing_epoch=accept.fencing_epoch, worker_id=accept.worker_id,
            worker_certificate=accept.worker_certificate,
            control_public_key=CONTROL.public_bytes,
        )  # fmt: skip
        return StateReceiver(expected, self.keys, decode_payload)


async def _stream(parts):
    if hasattr(parts, "__aiter__"):
        async for part in parts:
            yield part
        return
    for part in parts:
        yield part
