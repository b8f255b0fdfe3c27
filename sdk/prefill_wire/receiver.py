"""The SDK's side of a state: sealed chunks in, a verified state out, or nothing at all.

Pieces of the stream are opened and decoded into the caller's buffers as they come; the closing set
waits for the manifest. Whatever fails, the buffers are zeroed and the receiver is spent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError

from prefill_wire.certificate import verify_certificate
from prefill_wire.chunks import ChunkHeader, KeyClass, Role
from prefill_wire.codecs import Codec
from prefill_wire.digests import chunk_digest, exchange_root
from prefill_wire.errors import (
    ChannelError,
    IdentityError,
    IntegrityError,
    LimitExceeded,
    UnsupportedCodec,
)
from prefill_wire.limits import MAX_CHUNKS, MAX_MANIFEST_BYTES, SEAL_OVERHEAD_BYTES
from prefill_wire.manifest import StateManifest, verify_manifest
from prefill_wire.pb import prefill_pb2
from prefill_wire.receipt import UsageReceipt, verify_receipt
from prefill_wire.sealing import AttemptContext, AttemptKeys, open_chunk, open_manifest
from prefill_wire.tensors import PER_TOKEN, StateSchema, TensorKind, TensorSpec

Decode = Callable[[Codec, bytes, TensorSpec, np.ndarray], None]
Key = tuple[int, TensorKind]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedState:
    """What was asked for; a manifest that says anything else is refused."""

    context: AttemptContext
    schema: StateSchema
    token_count: int
    model_fingerprint: bytes
    tokenizer_fingerprint: bytes
    numerics_profile: str
    one_time_key_hash: bytes
    offered_wire_versions: tuple[int, ...]
    offered_codecs: tuple[str, ...]
    fencing_epoch: int
    worker_id: str
    worker_certificate: bytes
    control_public_key: bytes


@dataclass(frozen=True, slots=True)
class VerifiedState:
    """A whole state: its tensors by layer and kind, and the documents that vouch for it."""

    manifest: StateManifest
    receipt: UsageReceipt
    tensors: Mapping[Key, np.ndarray]


class StateReceiver:
    """Takes one attempt's chunks in any order, any number of times, and closes once."""

    def __init__(
        self,
        expected: ExpectedState,
        keys: AttemptKeys,
        decode: Decode,
        buffers: Mapping[Key, np.ndarray] | None = None,
    ) -> None:
        """`buffers`: C-contiguous arrays of the schema's shapes and dtypes; made when absent."""
        self._expected, self._keys, self._decode = expected, keys, decode
        self._specs = {t.key: t for t in expected.schema.tensors(expected.token_count - 1)}
        self._tensors = dict(buffers) if buffers is not None else _make_buffers(self._specs)
        _check_buffers(self._specs, self._tensors)
        self._headers: dict[int, ChunkHeader] = {}
        self._digests: dict[int, bytes] = {}
        self._waiting: dict[int, bytes] = {}
        self._table: bytes | None = None
        self._spent = False
        self.raw_bytes = 0
        self.sent_bytes = 0

    def accept(self, header: ChunkHeader, ciphertext: bytes) -> None:
        """Take one chunk; a repetition of the same bytes changes nothing.

        Raises a `WireError` when it does not fit the schema or does not open; then all is refused.
        """
        self._guard()
        try:
            self._accept(header, ciphertext)
        except BaseException:
            self._refuse()
            raise

    def _accept(self, header: ChunkHeader, ciphertext: bytes) -> None:
        header.check()
        if len(ciphertext) != header.payload_bytes + SEAL_OVERHEAD_BYTES:
            raise IntegrityError(f"chunk {header.index} has {len(ciphertext)} bytes")
        digest = chunk_digest(ciphertext)
        if header.index in self._digests:
            if self._digests[header.index] != digest or self._headers[header.index] != header:
                raise IntegrityError(f"chunk {header.index} came twice with different content")
            return
        if header.role is Role.PIECE:
            self._range_of(header)
        if header.key_class is KeyClass.CLOSE:
            self._waiting[header.index] = ciphertext
        else:
            payload = open_chunk(self._keys.stream, self._expected.context, header, ciphertext)
            self._place(header, payload)
        self._headers[header.index], self._digests[header.index] = header, digest
        self.sent_bytes += len(ciphertext)

    def _place(self, header: ChunkHeader, payload: bytes) -> None:
        if header.role is Role.LEAF_TABLE:
            if self._table is not None:
                raise IntegrityError(f"chunk {header.index} is a second leaf table")
            self._table = payload
            return
        if header.codec.wire_name not in self._expected.offered_codecs:
            raise UnsupportedCodec(f"codec {header.codec.wire_name} was not offered")
        spec, out = self._range_of(header)
        try:
            self._decode(header.codec, payload, spec, out)
        except Exception as error:
            # The seal held, so its maker coded it wrongly; a codec's own errors are not the wire's.
            raise IntegrityError(f"chunk {header.index} does not decode: {error}") from error
        self.raw_bytes += spec.nbytes

    def _range_of(self, header: ChunkHeader) -> tuple[TensorSpec, np.ndarray]:
        """The range of a schema tensor that a header names, as spec and as writable view."""
        whole = self._specs.get(header.key)
        if whole is None or (header.dtype, header.layout) != (whole.dtype, whole.layout):
            raise IdentityError(f"chunk {header.index}: the model has no such {header.kind.name}")
        grows = header.kind in PER_TOKEN
        start = header.token_start if grows else header.head_start
        end = header.token_end if grows else header.head_end
        other = (header.head_start, header.head_end) if grows else _tokens(header)
        whole_other = (0, whole.head_end) if grows else (0, whole.token_end)
        count = whole.token_end if grows else whole.head_end
        if not start < end <= count or other != whole_other:
            raise IdentityError(f"chunk {header.index} lies outside of its tensor")
        rows = whole.shape[0] // count
        shape = (rows * (end - start), *whole.shape[1:])
        spec = TensorSpec(
            *(whole.layer, whole.kind, whole.dtype, whole.layout, shape),
            *(header.token_start, header.token_end, header.head_start, header.head_end),
        )
        if spec.nbytes != header.raw_bytes:
            raise IntegrityError(f"chunk {header.index}: {header.raw_bytes} raw, not {spec.nbytes}")
        return spec, self._tensors[header.key][rows * start : rows * end]

    def missing(self, chunk_count: int) -> list[int]:
        """Indices below `chunk_count` that are still to come."""
        if chunk_count > MAX_CHUNKS:
            raise LimitExceeded.of("chunks of a state", chunk_count, MAX_CHUNKS)
        return [index for index in range(chunk_count) if index not in self._digests]

    @property
    def chunk_count(self) -> int:
        """Chunks held so far."""
        return len(self._digests)

    def root(self) -> bytes:
        """The root to claim: over the digests of all chunks held, which must have no gap."""
        if self.missing(len(self._digests)) or self._table is None:
            raise ChannelError("a claim needs every chunk, the leaf table included")
        return exchange_root(self._digests[index] for index in range(len(self._digests)))

    def close(self, sealed_manifest: bytes, receipt: bytes, now_ms: int) -> VerifiedState:
        """Verify every binding, open the closing set, hand the state out; all or nothing."""
        self._guard()
        try:
            state = self._close(sealed_manifest, receipt, now_ms)
        except BaseException:
            self._refuse()
            raise
        self._spent = True
        return state

    def _close(self, sealed_manifest: bytes, receipt: bytes, now_ms: int) -> VerifiedState:
        if len(sealed_manifest) > MAX_MANIFEST_BYTES + SEAL_OVERHEAD_BYTES:
            raise LimitExceeded.of("manifest bytes", len(sealed_manifest), MAX_MANIFEST_BYTES)
        expected = self._expected
        certificate = verify_certificate(
            expected.control_public_key, expected.worker_certificate, now_ms
        )
        if certificate.worker_id != expected.worker_id:
            raise IdentityError(f"the certificate is {certificate.worker_id}'s")
        signed = open_manifest(self._keys, expected.context, sealed_manifest)
        manifest = verify_manifest(certificate.public_key, signed)
        bill = verify_receipt(certificate.public_key, receipt)
        self._check_identity(manifest, bill, now_ms)
        self._check_chunks(manifest)
        for index, ciphertext in self._waiting.items():
            header = self._headers[index]
            payload = open_chunk(manifest.close_key, expected.context, header, ciphertext)
            self._place(header, payload)
        self._waiting.clear()
        if (bill.state_bytes_raw, bill.state_bytes_sent) != (self.raw_bytes, self.sent_bytes):
            raise IdentityError("the receipt counts other bytes than came")
        return VerifiedState(manifest, bill, self._tensors)

    def _check_identity(self, manifest: StateManifest, bill: UsageReceipt, now_ms: int) -> None:
        expected, context = self._expected, self._expected.context
        pairs = {
            "request": (manifest.request_id, context.request_id),
            "attempt": (manifest.attempt, context.attempt),
            "fencing epoch": (manifest.fencing_epoch, expected.fencing_epoch),
            "tenant": (manifest.tenant, context.tenant),
            "worker": (manifest.worker_id, expected.worker_id),
            "one-time key": (manifest.one_time_key_hash, expected.one_time_key_hash),
            "model": (manifest.model_fingerprint, expected.model_fingerprint),
            "tokenizer": (manifest.tokenizer_fingerprint, expected.tokenizer_fingerprint),
            "numerics profile": (manifest.numerics_profile, expected.numerics_profile),
            "prompt digest": (manifest.prompt_digest, context.prompt_digest),
            "token count": (manifest.token_count, expected.token_count),
            "state tokens": (manifest.state_tokens, expected.token_count - 1),
            "offered versions": (manifest.offered_wire_versions, expected.offered_wire_versions),
            "offered codecs": (manifest.offered_codecs, expected.offered_codecs),
            "receipt": (bill.receipt_id, manifest.receipt_id),
            "receipt's request": (bill.request_id, context.request_id),
            "receipt's attempt": (bill.attempt, context.attempt),
            "receipt's tenant": (bill.tenant, context.tenant),
            "receipt's fencing epoch": (bill.fencing_epoch, expected.fencing_epoch),
            "receipt's model": (bill.model_fingerprint, expected.model_fingerprint),
            "receipt's worker": (bill.worker_id, expected.worker_id),
            "receipt's token count": (bill.token_count, expected.token_count),
            "receipt's root": (bill.root, manifest.root),
        }
        for thing, (got, wanted) in pairs.items():
            if got != wanted:
                raise IdentityError(f"the state is of another {thing} than was asked for")
        if manifest.codec not in expected.offered_codecs:
            raise IdentityError(f"the state's codec {manifest.codec} was not offered")
        if now_ms >= manifest.expires_at_ms:
            raise IdentityError(f"the manifest expired at {manifest.expires_at_ms} ms")

    def _check_chunks(self, manifest: StateManifest) -> None:
        """The chunks held are those that were signed, and tile the schema's tensors exactly."""
        if manifest.chunk_count != len(self._digests) or self.root() != manifest.root:
            raise IntegrityError("the chunks held are not the chunks that were signed")
        last = manifest.chunk_count - 1
        if self._headers[last].role is not Role.LEAF_TABLE:
            raise IntegrityError("the last chunk is not the leaf table")
        if self._digests[last] != manifest.leaf_table_digest:
            raise IntegrityError("the leaf table is not the one that was signed")
        if self._leaves() != [(self._headers[i].encode(), self._digests[i]) for i in range(last)]:
            raise IntegrityError("the leaf table lists other chunks than these")
        if tuple(t.spec for t in manifest.tensors) != tuple(self._specs.values()):
            raise IdentityError("the manifest's tensors are not the model's")
        codecs = {tensor.spec.key: tensor.codec for tensor in manifest.tensors}
        ranges: dict[Key, list[tuple[int, int]]] = {key: [] for key in self._specs}
        for index in range(last):
            header = self._headers[index]
            if header.codec is not codecs[header.key]:
                raise IntegrityError(f"chunk {index} is coded otherwise than the manifest says")
            ranges[header.key].append(
                _tokens(header)
                if header.kind in PER_TOKEN
                else (header.head_start, header.head_end)
            )
        for key, spec in self._specs.items():
            total = spec.token_end if spec.kind in PER_TOKEN else spec.head_end
            if not _tiles(ranges[key], total):
                raise IntegrityError(f"the chunks of layer {key[0]} leave a gap or overlap")

    def abandon(self) -> None:
        """Give the state up: zero the buffers and take nothing more, unless it was handed out."""
        if not self._spent:
            self._refuse()

    def _leaves(self) -> list[tuple[bytes, bytes]]:
        try:
            table = prefill_pb2.LeafTable.FromString(self._table or b"")
        except DecodeError:
            raise IntegrityError("the leaf table cannot be parsed") from None
        return [(bytes(leaf.header), bytes(leaf.digest)) for leaf in table.leaves]

    def _guard(self) -> None:
        if self._spent:
            raise ChannelError("this receiver has closed or refused; a new attempt needs a new one")

    def _refuse(self) -> None:
        """Leave nothing usable behind."""
        self._spent = True
        self._waiting.clear()
        for array in self._tensors.values():
            array.fill(0)


def _tokens(header: ChunkHeader) -> tuple[int, int]:
    return header.token_start, header.token_end


def _tiles(ranges: list[tuple[int, int]], total: int) -> bool:
    """Whether half-open ranges cover 0..total once, without gap or overlap."""
    position = 0
    for start, end in sorted(ranges):
        if start != position:
            return False
        position = end
    return position == total


def _make_buffers(specs: Mapping[Key, TensorSpec]) -> dict[Key, np.ndarray]:
    return {key: np.zeros(spec.shape, spec.dtype.numpy_name) for key, spec in specs.items()}


def _check_buffers(specs: Mapping[Key, TensorSpec], buffers: Mapping[Key, np.ndarray]) -> None:
    for key, spec in specs.items():
        array = buffers.get(key)
        if (
            array is None
            or array.shape != spec.shape
            or array.dtype != np.dtype(spec.dtype.numpy_name)
        ):
            raise IdentityError(f"buffer {key} must have shape {spec.shape}, {spec.dtype.name}")
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise IdentityError(f"buffer {key} must be C-contiguous and writable")
