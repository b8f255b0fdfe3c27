"""A cloud in the test's own process: a real gRPC servicer and a real TCP data server.

The state it serves comes from `state_of(tokens)`; knobs break it in every way that a network, a
worker or an attacker can.
"""

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

import grpc
import numpy as np
from prefill_kernels.pack import ElementType, names
from prefill_kernels.pack import codec as pack_codec
from prefill_kernels.pack.policy import StatePart, allowed
from prefill_wire.certificate import WorkerCertificate, issue_certificate
from prefill_wire.channel import Authenticate, Goodbye, Progress, Pull, ServerChannel
from prefill_wire.codecs import choose
from prefill_wire.digests import prompt_digest
from prefill_wire.errors import WireError
from prefill_wire.identity import ModelIdentity
from prefill_wire.manifest import ManifestTensor, StateManifest
from prefill_wire.pb import prefill_pb2, prefill_pb2_grpc
from prefill_wire.producer import ProducerKeys, StateProducer
from prefill_wire.receipt import UsageReceipt
from prefill_wire.sealing import AttemptContext, AttemptKeys, seal_envelope
from prefill_wire.signing import SigningKey
from prefill_wire.status import STATUS_TABLE, StatusCode
from prefill_wire.tensors import PER_TOKEN, Dtype, LayerState, Layout, StateSchema, TensorKind

CONTROL, WORKER = SigningKey.from_seed(b"c" * 32), SigningKey.from_seed(b"w" * 32)
API_KEY = "pk_test_not-for-logs"
IDENTITY = ModelIdentity("tiny", b"m" * 32, b"t" * 32, "fp32")
SCHEMA = StateSchema(
    (
        LayerState(0, TensorKind.RECURRENT, Dtype.FLOAT32, Layout.K_FIRST, (2, 4, 4), 2),
        LayerState(0, TensorKind.CONV, Dtype.FLOAT32, Layout.CHANNEL_MAJOR, (24, 3), 1),
        LayerState(1, TensorKind.LATENT_KV, Dtype.BFLOAT16, Layout.TOKEN_MAJOR, (12,), 1),
    )
)
NOT_AFTER_MS = 4_000_000_000_000


def random_state(tokens):
    """Tensors that depend on the prompt, so that another prompt's state is another state.

    Ordinary numbers: without the highest bit of its exponent a bfloat16 is at most 2.
    """
    rng = np.random.default_rng(np.asarray(tokens, np.uint32))
    state = {}
    for spec in SCHEMA.tensors(len(tokens) - 1):
        if spec.dtype is Dtype.FLOAT32:
            state[spec.key] = rng.standard_normal(spec.shape, dtype=np.float32)
        else:
            state[spec.key] = rng.integers(0, 2**16, spec.shape, dtype=np.uint16) & 0xBFFF
    return state


@dataclass
class Faults:
    """What this cloud does wrong. Counts are used up; an index of None means never."""

    refuse: dict = field(default_factory=dict)  # call name -> StatusCode, for every such call
    unavailable: Counter = field(default_factory=Counter)  # call name -> how many times
    bare: Counter = field(default_factory=Counter)  # call name -> how many INTERNAL, untyped
    unanswered: set = field(default_factory=set)  # call names that never answer
    break_after: Counter = field(default_factory=Counter)  # chunk index -> how many times
    cut_inside: Counter = field(default_factory=Counter)  # chunk index -> how many times
    stall_before: int | None = None  # once
    fail_at: tuple | None = None  # (chunk index, StatusCode)
    flip: int | None = None  # chunk index whose ciphertext has a bit flipped
    header: dict = field(default_factory=dict)  # chunk index -> changes of its header
    refuse_connections: list = field(default_factory=list)  # StatusCodes, one a connection
    accept: dict = field(default_factory=dict)  # changes of Accept
    manifest: dict = field(default_factory=dict)  # changes of the manifest
    codes: dict = field(default_factory=dict)  # tensor kind -> Codec, whatever was asked for
    bounds: dict = field(default_factory=dict)  # tensor kind -> error bound that is told
    use_local: str = ""
    redirect_to: list = field(default_factory=list)  # endpoints, one an Open
    endless_redirects: bool = False
    unasked: bool = False  # sends a chunk that nobody asked for
    endless: bool = False  # goes on sending chunks of the state, never the leaf table
    ends: bool = False  # says the end for ever once the leaf table is asked for
    repeats: int = 0  # how often the first tensor is sealed again, each time as a new chunk
    inflated: int = 0  # zero bytes behind every payload
    nonsense: bytes = b""  # sent in place of the greeting
    amount_micros: int = 7
    hold_chunks: asyncio.Event | None = None  # no chunk before this is set


@dataclass
class Served:
    """One attempt at this cloud."""

    accept: prefill_pb2.Accept
    opened: prefill_pb2.OpenRequest
    keys: AttemptKeys | None = None
    chunks: list = field(default_factory=list)
    finished: object = None
    tokens: list = field(default_factory=list)


class LoopbackCloud(prefill_pb2_grpc.PrefillGatewayServicer):
    """Gateway and worker at once; `calls` counts RPCs, `sent` chunk indices."""

    def __init__(self, state_of=random_state, schema=SCHEMA, identity=IDENTITY, tls=None):
        self.state_of, self.schema, self.identity = state_of, schema, identity
        self._tls = tls
        self.faults = Faults()
        self.calls, self.sent, self.cancels = Counter(), Counter(), []
        self.attempts: dict[str, Served] = {}
        self.connections = self.open_connections = 0
        self.rows_a_chunk, self.codecs = 2, names()
        self.threshold_tokens, self.hint_seconds = 4, 60
        self._tasks, self.entered = set(), defaultdict(asyncio.Event)
        self.closed = asyncio.Condition()

    async def __aenter__(self):
        self._server = grpc.aio.server()
        prefill_pb2_grpc.add_PrefillGatewayServicer_to_server(self, self._server)
        if self._tls is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            pair = [(self._tls.key, self._tls.roots)]
            port = self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair))
        self.endpoint = f"localhost:{port}"
        await self._server.start()
        self._data = await asyncio.start_server(
            self._connected, "127.0.0.1", 0, ssl=self._tls and self._tls.server
        )
        port = self._data.sockets[0].getsockname()[1]
        self.data_endpoint = f"localhost:{port}"
        return self

    async def __aexit__(self, *_):
        self._data.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.stop(None)

    @property
    def control_public_key(self):
        return CONTROL.public_bytes

    async def all_closed(self):
        """Waits until no data connection is left."""
        async with self.closed:
            await self.closed.wait_for(lambda: self.open_connections == 0)

    @property
    def only(self):
        """The one attempt there is."""
        (served,) = self.attempts.values()
        return served

    async def _enter(self, call, context):
        self.calls[call] += 1
        self.entered[call].set()
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {API_KEY}":
            await refuse(context, StatusCode.KEY_NOT_FOUND)
        if self.faults.bare[call] > 0:
            self.faults.bare[call] -= 1
            await context.abort(grpc.StatusCode.INTERNAL, "Internal error from Core")
        if call in self.faults.refuse:
            await refuse(context, self.faults.refuse[call])
        if self.faults.unavailable[call] > 0:
            self.faults.unavailable[call] -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        if call in self.faults.unanswered:
            await asyncio.Event().wait()

    def _hint(self):
        return prefill_pb2.PolicyHint(
            routing_threshold_tokens=self.threshold_tokens, valid_seconds=self.hint_seconds
        )

    async def Open(self, request, context):  # noqa: N802
        await self._enter("Open", context)
        if self.faults.endless_redirects or self.faults.redirect_to:
            target = self.faults.redirect_to.pop(0) if self.faults.redirect_to else self.endpoint
            return prefill_pb2.OpenResponse(redirect=prefill_pb2.Redirect(endpoint=target))
        if self.faults.use_local:
            advice = prefill_pb2.UseLocal(reason=self.faults.use_local, policy_hint=self._hint())
            return prefill_pb2.OpenResponse(use_local=advice)
        for served in self.attempts.values():
            if served.opened.idempotency_key == request.idempotency_key:
                return prefill_pb2.OpenResponse(accept=served.accept)
        number = len(self.attempts) + 1
        certificate = WorkerCertificate("w1", "eu", WORKER.public_bytes, 0, NOT_AFTER_MS)
        fields = {
            "request_id": f"req_{number:026d}", "attempt": 1, "tenant": "acme",
            "datacenter": "eu", "worker_id": "w1", "wire_version": 1,
            "worker_certificate": issue_certificate(CONTROL, certificate),
            "data_endpoint": self.data_endpoint, "data_tls": self._tls is not None,
            "capability": b"req_%026d" % number,
            "max_connections": 4, "price_bound_micros": 10, "lease_seconds": 60,
            "fencing_epoch": 3, "policy_hint": self._hint(),
        }  # fmt: skip
        accept = prefill_pb2.Accept(**{**fields, **self.faults.accept})
        self.attempts[accept.request_id] = Served(accept, request)
        return prefill_pb2.OpenResponse(accept=accept)

    async def Prompt(self, parts, context):  # noqa: N802
        received = [part async for part in parts]
        served = self.attempts[received[0].request_id]
        data = b"".join(part.token_ids for part in received)
        await self._enter("Prompt", context)
        assert prompt_digest(data) == served.opened.prompt_digest
        accept = served.accept
        context_of = AttemptContext(
            accept.request_id, accept.attempt, accept.tenant, served.opened.prompt_digest
        )
        served.keys = AttemptKeys.derive(b"s" * 32, context_of)
        served.tokens = np.frombuffer(data, "<u4")
        if served.finished is None:
            self._produce(served, context_of)
        sealed = seal_envelope(served.opened.one_time_public_key, b"s" * 32, context_of)
        envelope = prefill_pb2.KeyEnvelope(
            encapsulated_key=sealed.encapsulated_key, ciphertext=sealed.ciphertext
        )
        return prefill_pb2.PromptResponse(envelope=envelope)

    def _produce(self, served, context):
        """Seal the whole state; each tensor's last range goes into the closing set."""
        opened, accept = served.opened, served.accept
        producer = StateProducer(context, ProducerKeys(served.keys, b"k" * 32, WORKER))
        codes, bounds = self._codes(opened), {}
        state = self.state_of(served.tokens)
        specs = self.schema.tensors(len(served.tokens) - 1)
        for spec in specs:
            codec = codes[spec.kind]
            coder = pack_codec(codec.wire_name)
            step = self.rows_a_chunk if spec.kind in PER_TOKEN else spec.shape[0]
            for a in range(0, spec.shape[0], step):
                b = min(a + step, spec.shape[0])
                part = replace(spec, shape=(b - a, *spec.shape[1:]))
                if spec.kind in PER_TOKEN:
                    part = replace(part, token_start=a, token_end=b)
                rows = np.ascontiguousarray(state[spec.key][a:b])
                coded = coder.encode(rows, ElementType(spec.dtype))
                bounds[spec.key] = max(coded.error_bound, bounds.get(spec.key, 0.0))
                payload = coded.payload
                last = b == spec.shape[0]
                payload += bytes(self.faults.inflated)
                for _ in range(1 + (self.faults.repeats if spec is specs[0] else 0)):
                    served.chunks.append(producer.add(part, payload, codec, closing=last))
        fields = {
            "wire_version": 1, "offered_wire_versions": tuple(opened.wire_versions),
            "offered_codecs": tuple(opened.codecs), "codec_policy": opened.codec_policy,
            "request_id": accept.request_id, "attempt": accept.attempt, "fencing_epoch": 3,
            "expires_at_ms": NOT_AFTER_MS, "tenant": accept.tenant, "worker_id": "w1",
            "one_time_key_hash": _key_hash(opened), "prompt_digest": opened.prompt_digest,
            "model_fingerprint": self.identity.fingerprint,
            "tokenizer_fingerprint": self.identity.tokenizer_fingerprint,
            "numerics_profile": self.identity.numerics_profile,
            "token_count": opened.token_count, "state_tokens": opened.token_count - 1,
            "tensors": (), "chunk_count": 0, "leaf_table_digest": b"", "root": b"",
            "close_key": b"", "receipt_id": "",
        }  # fmt: skip
        receipt = UsageReceipt(
            receipt_id="rcp_" + "0" * 26, request_id=accept.request_id, attempt=accept.attempt,
            fencing_epoch=3, tenant=accept.tenant, key_id="k1", model=self.identity.name,
            model_fingerprint=self.identity.fingerprint, datacenter="eu", worker_id="w1",
            token_count=opened.token_count, cached_tokens=0, state_bytes_raw=0,
            state_bytes_sent=0, root=b"", started_at_ms=1, finished_at_ms=2, queue_us=1000,
            prefill_us=2000, encode_us=3000,
        )  # fmt: skip
        tensors = tuple(
            ManifestTensor(
                s, codes[s.kind], error_bound=self.faults.bounds.get(s.kind, bounds[s.key])
            )
            for s in specs
        )
        manifest = StateManifest(**{**fields, **self.faults.manifest})
        served.finished = producer.finish(tensors, manifest, receipt)
        served.chunks.append(served.finished.leaf_table)

    def _codes(self, opened):
        """A codec for every kind of tensor, as a worker chooses."""
        offered = [name for name in opened.codecs if name in self.codecs]
        chosen = {
            kind: choose(allowed(opened.codec_policy, StatePart(kind.part)), offered)
            for kind in TensorKind
        }
        return {**chosen, **self.faults.codes}

    async def Claim(self, request, context):  # noqa: N802
        await self._enter("Claim", context)
        done = self.attempts[request.request_id].finished
        if (request.root, request.chunk_count) != (done.root, done.chunk_count):
            await refuse(context, StatusCode.ROOT_MISMATCH)
        return prefill_pb2.ClaimResponse(
            sealed_manifest=done.sealed_manifest,
            receipt=done.receipt,
            amount_micros=self.faults.amount_micros,
        )

    async def Cancel(self, request, context):  # noqa: N802
        await self._enter("Cancel", context)
        self.cancels.append((request.request_id, request.attempt, request.reason))
        return prefill_pb2.CancelResponse()

    async def ListModels(self, request, context):  # noqa: N802
        await self._enter("ListModels", context)
        model = prefill_pb2.ListedModel(
            identity=self.identity.message(), max_tokens=100, datacenters=["eu"]
        )
        return prefill_pb2.ListModelsResponse(models=[model], policy_hint=self._hint())

    async def _connected(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        self.connections += 1
        self.open_connections += 1
        try:
            await self._talk(reader, writer)
        except (OSError, asyncio.CancelledError, WireError):
            writer.transport.abort()
        finally:
            self.open_connections -= 1
            self._tasks.discard(task)
            writer.close()
            async with self.closed:
                self.closed.notify_all()

    async def _talk(self, reader, writer):
        if self.faults.nonsense:
            writer.write(self.faults.nonsense)
            await reader.read()
            return
        channel, queue, served = ServerChannel(b"n" * 32), [], None
        writer.write(channel.greeting())
        while data := await reader.read(65536):
            for event in channel.receive(data):
                match event:
                    case Authenticate(capability, _):
                        served = self.attempts[capability.decode()]
                        if self.faults.refuse_connections:
                            code = self.faults.refuse_connections.pop(0)
                            writer.write(channel.refuse(code, "not now"))
                            return
                        writer.write(channel.ready())
                    case Pull(first, count):
                        queue += range(first, first + count)
                    case Goodbye():
                        return
            while queue:
                await self._serve(served, queue.pop(0), channel, (reader, writer))

    async def _held_back(self, reader):
        """Until chunks may go, or the other side leaves."""
        free = asyncio.ensure_future(self.faults.hold_chunks.wait())
        left = asyncio.ensure_future(reader.read(65536))
        await asyncio.wait({free, left}, return_when=asyncio.FIRST_COMPLETED)
        free.cancel()
        if left.done():
            raise ConnectionResetError
        left.cancel()

    async def _serve(self, served, index, channel, streams):
        reader, writer = streams
        chunks, faults = served.chunks, self.faults
        if faults.hold_chunks is not None:
            writer.write(channel.progress(Progress(1, len(served.tokens), 0)))
            await self._held_back(reader)
        if faults.stall_before == index:
            faults.stall_before = None
            await reader.read()  # until the other side leaves
            raise ConnectionResetError
        if faults.fail_at is not None and faults.fail_at[0] == index:
            writer.write(channel.fail(faults.fail_at[1], "the attempt died"))
            return
        while faults.ends and index == len(chunks) - 1:
            writer.write(channel.end(len(chunks)))
            await writer.drain()
            await asyncio.sleep(0)  # its client shares this loop
        if faults.unasked:
            index = len(chunks) - 1 if index == 0 else 0
        if faults.endless:
            index, again = index % (len(chunks) - 1), index
        elif index >= len(chunks):
            writer.write(channel.end(len(chunks)))
            return
        header, data = chunks[index].header, chunks[index].ciphertext
        if faults.endless:
            header = replace(header, index=again)
        header = replace(header, **faults.header.get(index, {}))
        if faults.flip == index:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self.sent[index] += 1
        writer.write(channel.chunk_prefix(header, len(data)))
        if faults.cut_inside[index] > 0:
            faults.cut_inside[index] -= 1
            writer.write(data[: len(data) // 2])
            raise ConnectionResetError
        writer.write(data)
        await writer.drain()
        if faults.break_after[index] > 0:
            faults.break_after[index] -= 1
            writer.close()
            raise ConnectionResetError


def _key_hash(opened):
    from prefill_wire.digests import key_hash

    return key_hash(opened.one_time_public_key)


async def refuse(context, code, request_id=""):
    """End a call as the gateway does: the table's status, and the detail in trailing metadata."""
    detail = prefill_pb2.ErrorDetail(
        code=code, message=f"refused with {code}.", remedy="Do as told.", request_id=request_id,
        retry_after_ms=1500,
    )  # fmt: skip
    metadata = (("prefill-error-bin", detail.SerializeToString()),)
    status = grpc.StatusCode[STATUS_TABLE[code].grpc_status]
    await context.abort(status, f"refused with {code}", trailing_metadata=metadata)
