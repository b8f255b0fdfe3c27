"""The manifest: the one document that makes chunks a state, signed by the worker."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from prefill_wire.codecs import Codec, codec
from prefill_wire.errors import IntegrityError, LimitExceeded, UnsupportedVersion
from prefill_wire.limits import (
    MAX_DIMENSIONS,
    MAX_ERROR_BOUND,
    MAX_MANIFEST_BYTES,
    MAX_TENSORS,
    WIRE_VERSION,
)
from prefill_wire.pb import prefill_pb2
from prefill_wire.signing import SigningKey, verify_document
from prefill_wire.tensors import Dtype, Layout, TensorSpec, tensor_kind

_DOMAIN = "state manifest"
CLOSE_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class ManifestTensor:
    """One tensor and how it was coded.

    `error_bound`: the largest absolute error of any element, told by the encoder; 0 for a lossless
    codec. The signature holds its maker to it; nobody else can know the true values.
    """

    spec: TensorSpec
    codec: Codec
    parameters: bytes = b""
    error_bound: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class StateManifest:
    """Everything a state is bound to; the protocol's manifest, field by field.

    `token_count` is N, `state_tokens` N-1. Digests and keys have 32 bytes, times are Unix
    milliseconds. The representation is left out of logs: `close_key` is a secret.
    """

    wire_version: int
    offered_wire_versions: tuple[int, ...]
    offered_codecs: tuple[str, ...]
    codec_policy: str
    request_id: str
    attempt: int
    fencing_epoch: int
    expires_at_ms: int
    tenant: str
    worker_id: str
    one_time_key_hash: bytes
    model_fingerprint: bytes
    tokenizer_fingerprint: bytes
    numerics_profile: str
    prompt_digest: bytes
    token_count: int
    state_tokens: int
    tensors: tuple[ManifestTensor, ...]
    chunk_count: int
    leaf_table_digest: bytes
    root: bytes
    close_key: bytes
    receipt_id: str


_PLAIN_FIELDS = tuple(
    name
    for name in StateManifest.__slots__
    if name not in ("tensors", "offered_wire_versions", "offered_codecs")
)


def sign_manifest(key: SigningKey, manifest: StateManifest) -> bytes:
    """Encode and sign; raises `LimitExceeded` beyond 512 tensors or 256 KiB."""
    if len(manifest.tensors) > MAX_TENSORS:
        raise LimitExceeded.of("tensors in a manifest", len(manifest.tensors), MAX_TENSORS)
    message = prefill_pb2.StateManifest(
        offered_wire_versions=manifest.offered_wire_versions,
        offered_codecs=manifest.offered_codecs,
        tensors=[_tensor_entry(tensor) for tensor in manifest.tensors],
        **{name: getattr(manifest, name) for name in _PLAIN_FIELDS},
    )
    signed = key.sign(_DOMAIN, message.SerializeToString(deterministic=True))
    if len(signed) > MAX_MANIFEST_BYTES:
        raise LimitExceeded.of("manifest bytes", len(signed), MAX_MANIFEST_BYTES)
    return signed


def verify_manifest(worker_public: bytes, signed: bytes) -> StateManifest:
    """The manifest when the worker's signature holds and every limit does."""
    document = verify_document(worker_public, _DOMAIN, signed, MAX_MANIFEST_BYTES)
    try:
        message = prefill_pb2.StateManifest.FromString(document)
    except DecodeError:
        raise IntegrityError("the manifest cannot be parsed") from None
    if message.wire_version != WIRE_VERSION:
        raise UnsupportedVersion(f"manifest of wire version {message.wire_version}")
    if len(message.tensors) > MAX_TENSORS:
        raise LimitExceeded.of("tensors in a manifest", len(message.tensors), MAX_TENSORS)
    if len(message.close_key) != CLOSE_KEY_BYTES:
        raise IntegrityError(f"the closing key has {len(message.close_key)} bytes, not 32")
    return StateManifest(
        offered_wire_versions=tuple(message.offered_wire_versions),
        offered_codecs=tuple(message.offered_codecs),
        tensors=tuple(_tensor(entry) for entry in message.tensors),
        **{name: getattr(message, name) for name in _PLAIN_FIELDS},
    )


def _tensor_entry(tensor: ManifestTensor) -> prefill_pb2.TensorEntry:
    spec = tensor.spec
    return prefill_pb2.TensorEntry(
        layer=spec.layer,
        kind=spec.kind,
        token_start=spec.token_start,
        token_end=spec.token_end,
        head_start=spec.head_start,
        head_end=spec.head_end,
        dtype=spec.dtype,
        shape=spec.shape,
        layout=spec.layout,
        codec=tensor.codec,
        codec_parameters=tensor.parameters,
        error_bound=tensor.error_bound,
    )


def _tensor(entry: prefill_pb2.TensorEntry) -> ManifestTensor:
    if len(entry.shape) > MAX_DIMENSIONS:
        raise LimitExceeded.of("axes of a tensor", len(entry.shape), MAX_DIMENSIONS)
    try:
        spec = TensorSpec(
            entry.layer,
            tensor_kind(entry.kind),
            Dtype(entry.dtype),
            Layout(entry.layout),
            tuple(entry.shape),
            entry.token_start,
            entry.token_end,
            entry.head_start,
            entry.head_end,
        )
    except ValueError as error:
        raise IntegrityError(f"manifest, layer {entry.layer}: {error}") from None
    tensor = ManifestTensor(
        spec, codec(entry.codec), bytes(entry.codec_parameters), entry.error_bound
    )
    _check_bound(tensor)
    return tensor


def _check_bound(tensor: ManifestTensor) -> None:
    """What no encoder can have found; NaN compares false."""
    most = 0.0 if tensor.codec.lossless else MAX_ERROR_BOUND
    if not 0.0 <= tensor.error_bound <= most:
        raise IntegrityError(
            f"layer {tensor.spec.layer}: {tensor.codec.wire_name} cannot have an error of up to "
            f"{tensor.error_bound}"
        )
