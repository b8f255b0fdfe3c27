"""The SDK's side of a state: sealed chunks in, a verified state out, or nothing at all.

Pieces of the stream are opened and decoded into the caller's buffers as they come; the closing set
waits for the manifest. Whatever fails, the buffers are zeroed and the receiver is spent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prefill_wire.buffers import Key, StateBuffers
from prefill_wire.certificate import verify_certificate
from prefill_wire.chunks import ChunkHeader, KeyClass, Role, leaf_table
from prefill_wire.codecs import Codec
from prefill_wire.digests import chunk_digest, exchange_root
from prefill_wire.errors import ChannelError, IdentityError, IntegrityError, LimitExceeded
from prefill_wire.expected import ExpectedState, check_identity
from prefill_wire.limits import MAX_CHUNKS, MAX_MANIFEST_BYTES, SEAL_OVERHEAD_BYTES
from prefill_wire.manifest import StateManifest, verify_manifest
from prefill_wire.receipt import UsageReceipt, verify_receipt
from prefill_wire.sealing import AttemptKeys, open_chunk, open_manifest
from prefill_wire.tensors import TensorSpec

Decode = Callable[[Codec, bytes, TensorSpec, np.ndarray], None]


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
        specs = expected.schema.tensors(expected.token_count - 1)
        self._buffers = StateBuffers(specs, buffers)
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
            self._buffers.range_of(header)
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
        self._expected.check_codec(header.kind, header.codec)
        spec, out = self._buffers.range_of(header)
        try:
            self._decode(header.codec, payload, spec, out)
        except Exception as error:
            # The seal held, so its maker coded it wrongly; a codec's own errors are not the wire's.
            raise IntegrityError(f"chunk {header.index} does not decode: {error}") from error
        self.raw_bytes += spec.nbytes

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
        return VerifiedState(manifest, bill, self._buffers.arrays)

    def _check_identity(self, manifest: StateManifest, bill: UsageReceipt, now_ms: int) -> None:
        check_identity(self._expected, manifest, bill, now_ms)

    def _check_chunks(self, manifest: StateManifest) -> None:
        """The chunks held are those that were signed, and tile the schema's tensors exactly."""
        if manifest.chunk_count != len(self._digests) or self.root() != manifest.root:
            raise IntegrityError("the chunks held are not the chunks that were signed")
        last = manifest.chunk_count - 1
        if self._headers[last].role is not Role.LEAF_TABLE:
            raise IntegrityError("the last chunk is not the leaf table")
        if self._digests[last] != manifest.leaf_table_digest:
            raise IntegrityError("the leaf table is not the one that was signed")
        # Compared as bytes: parsed, a table of empty leaves takes seventy times its size.
        leaves = ((self._headers[i].encode(), self._digests[i]) for i in range(last))
        if self._table != leaf_table(leaves):
            raise IntegrityError("the leaf table lists other chunks than these")
        if tuple(t.spec for t in manifest.tensors) != tuple(self._buffers.specs.values()):
            raise IdentityError("the manifest's tensors are not the model's")
        pieces = [self._headers[index] for index in range(last)]
        self._check_codecs(manifest, pieces)
        self._buffers.check_tiled(pieces)

    def _check_codecs(self, manifest: StateManifest, pieces: Sequence[ChunkHeader]) -> None:
        """Every tensor has one codec, which was asked for, and every chunk of it that one."""
        codecs = {tensor.spec.key: tensor.codec for tensor in manifest.tensors}
        for (_, kind), code in codecs.items():
            self._expected.check_codec(kind, code)
        for header in pieces:
            if header.codec is not codecs[header.key]:
                raise IntegrityError(
                    f"chunk {header.index} is coded otherwise than the manifest says"
                )

    def abandon(self) -> None:
        """Give the state up: zero the buffers and take nothing more, unless it was handed out."""
        if not self._spent:
            self._refuse()

    def _guard(self) -> None:
        if self._spent:
            raise ChannelError("this receiver has closed or refused; a new attempt needs a new one")

    def _refuse(self) -> None:
        """Leave nothing usable behind."""
        self._spent = True
        self._waiting.clear()
        self._buffers.zero()
