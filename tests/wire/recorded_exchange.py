"""A whole exchange, recorded: the producer's bytes and everything a receiver expects."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from prefill_wire.certificate import WorkerCertificate, issue_certificate
from prefill_wire.codecs import Codec
from prefill_wire.digests import prompt_digest, token_bytes
from prefill_wire.expected import ExpectedState
from prefill_wire.manifest import ManifestTensor, StateManifest
from prefill_wire.producer import Finished, ProducerKeys, StateProducer
from prefill_wire.receipt import UsageReceipt
from prefill_wire.receiver import StateReceiver
from prefill_wire.sealing import AttemptContext, AttemptKeys, OneTimeKey
from prefill_wire.signing import SigningKey
from prefill_wire.tensors import Dtype, LayerState, Layout, StateSchema, TensorKind

NOW_MS = 1_800_000_000_000
N = 7
SCHEMA = StateSchema(
    (
        LayerState(0, TensorKind.RECURRENT, Dtype.FLOAT32, Layout.K_FIRST, (2, 4, 4), 2),
        LayerState(0, TensorKind.CONV, Dtype.FLOAT32, Layout.CHANNEL_MAJOR, (24, 3), 1),
        LayerState(1, TensorKind.LATENT_KV, Dtype.BFLOAT16, Layout.TOKEN_MAJOR, (12,), 1),
    )
)


def seed(name):
    return hashlib.sha256(name.encode()).digest()


@dataclass
class Exchange:
    """What one attempt put on the wire."""

    expected: ExpectedState
    keys: AttemptKeys
    chunks: list
    finished: Finished
    state: dict
    coding: object

    def receiver(self, **changes):
        return StateReceiver(replace(self.expected, **changes), self.keys, self.coding.decode)

    def messages(self):
        return [(c.header.encode(), c.ciphertext) for c in self.chunks]


@dataclass(frozen=True)
class Coding:
    """A policy, and by kind of tensor its codec and error bound.

    Payloads are the raw bytes whatever the codec is called: what codecs do is not the wire's.
    """

    policy: str
    of: dict

    @property
    def allowed(self):
        return {kind: (code.wire_name,) for kind, (code, _) in self.of.items()}

    @property
    def offered(self):
        return tuple(sorted({code.wire_name for code, _ in self.of.values()}))

    def code(self, spec):
        """The codec of one chunk."""
        return self.of[spec.kind][0]

    def encode(self, code, spec, rows):
        """Payload and error bound of one chunk."""
        return rows.tobytes(), self.of[spec.kind][1]

    def decode(self, code, payload, spec, out):
        out[...] = np.frombuffer(payload, out.dtype).reshape(out.shape)


EXACT = Coding("exact", dict.fromkeys(TensorKind, (Codec.RAW, 0.0)))
MIXED = Coding(
    "near-lossless",
    {
        TensorKind.KV: (Codec.INT8_ROW, 0.5),
        TensorKind.LATENT_KV: (Codec.INT8_ROW, 0.25),
        TensorKind.RECURRENT: (Codec.HADAMARD_INT8, 1e-3),
        TensorKind.CONV: (Codec.PLANES_ZSTD, 0.0),
    },
)


def documents(context, one_time, model, coding):
    """Manifest and receipt, but for what the producer fills in."""
    request, attempt, tenant = context.request_id, context.attempt, context.tenant
    manifest = StateManifest(
        wire_version=1, offered_wire_versions=(1,), offered_codecs=coding.offered,
        codec_policy=coding.policy, request_id=request, attempt=attempt, fencing_epoch=3,
        expires_at_ms=NOW_MS + 1000, tenant=tenant, worker_id="w1",
        one_time_key_hash=one_time.key_hash, model_fingerprint=seed(model),
        tokenizer_fingerprint=seed("tok"), numerics_profile="fp32",
        prompt_digest=context.prompt_digest, token_count=N, state_tokens=N - 1, tensors=(),
        chunk_count=0, leaf_table_digest=b"", root=b"", close_key=b"", receipt_id="",
    )  # fmt: skip
    receipt = UsageReceipt(
        receipt_id="rcp_" + request[4:], request_id=request, attempt=attempt, fencing_epoch=3,
        tenant=tenant, key_id="k1", model=model, model_fingerprint=seed(model), datacenter="eu",
        worker_id="w1", token_count=N, cached_tokens=0, state_bytes_raw=0, state_bytes_sent=0,
        root=b"", started_at_ms=NOW_MS, finished_at_ms=NOW_MS, queue_us=1, prefill_us=2,
        encode_us=3,
    )  # fmt: skip
    return manifest, receipt


def make_exchange(
    request="a", attempt=1, tenant="acme", model="m", tokens=range(N), coding=EXACT, told=None
):
    """`told`: by kind, an error bound that the manifest tells in place of the encoder's."""
    control, worker = SigningKey.from_seed(seed("control")), SigningKey.from_seed(seed("worker"))
    one_time = OneTimeKey.from_private_bytes(seed(f"one-time {request}"))
    certificate = WorkerCertificate("w1", "eu", worker.public_bytes, NOW_MS - 1, NOW_MS + 10**6)
    digest = prompt_digest(token_bytes(list(tokens)))
    context = AttemptContext(f"req_{request * 26}", attempt, tenant, digest)
    keys = AttemptKeys.derive(seed(f"secret {request} {attempt} {tenant}"), context)
    close = seed(f"close {request} {attempt} {tenant}")
    producer = StateProducer(context, ProducerKeys(keys, close, worker))
    specs = SCHEMA.tensors(N - 1)
    state = {}
    for s in specs:
        drawn = hashlib.shake_256(f"{request} {tenant} {s.key}".encode()).digest(s.nbytes)
        state[s.key] = np.frombuffer(drawn, s.dtype.numpy_name)
    chunks, bounds = [], {}

    def add(spec, rows, closing):
        code = coding.code(spec)
        payload, bound = coding.encode(code, spec, rows)
        bounds[spec.kind] = max(bound, bounds.get(spec.kind, 0.0))
        chunks.append(producer.add(spec, payload, code, closing=closing))

    for spec in specs:
        rows = state[spec.key].reshape(spec.shape)
        state[spec.key] = rows
        if spec.kind is TensorKind.LATENT_KV:
            for a, b in ((0, 2), (2, 4), (4, 6)):
                part = replace(spec, shape=(b - a, 12), token_start=a, token_end=b)
                add(part, rows[a:b], closing=b == 6)
        else:
            add(spec, rows, closing=True)
    manifest, receipt = documents(context, one_time, model, coding)
    bounds |= told or {}
    tensors = tuple(
        ManifestTensor(s, coding.of[s.kind][0], error_bound=bounds[s.kind]) for s in specs
    )
    finished = producer.finish(tensors, manifest, receipt)
    expected = ExpectedState(
        context=context, schema=SCHEMA, token_count=N, model_fingerprint=seed(model),
        tokenizer_fingerprint=seed("tok"), numerics_profile="fp32",
        one_time_key_hash=one_time.key_hash, offered_wire_versions=(1,),
        offered_codecs=coding.offered, codec_policy=coding.policy, allowed_codecs=coding.allowed,
        fencing_epoch=3, worker_id="w1",
        worker_certificate=issue_certificate(control, certificate),
        control_public_key=control.public_bytes,
    )  # fmt: skip
    return Exchange(expected, keys, [*chunks, finished.leaf_table], finished, state, coding)
