"""The worker's side of a state: pieces in, sealed chunks out, one signed manifest at the end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from prefill_wire.chunks import ChunkHeader, KeyClass, Role, SealedChunk, leaf_table
from prefill_wire.codecs import Codec
from prefill_wire.digests import chunk_digest, exchange_root
from prefill_wire.errors import ChannelError, LimitExceeded
from prefill_wire.limits import MAX_CHUNK_BYTES, MAX_CHUNKS, MAX_LEAF_TABLE_BYTES
from prefill_wire.manifest import ManifestTensor, StateManifest, sign_manifest
from prefill_wire.receipt import UsageReceipt, sign_receipt
from prefill_wire.sealing import AttemptContext, AttemptKeys, seal_chunk, seal_manifest
from prefill_wire.signing import SigningKey
from prefill_wire.tensors import Dtype, Layout, TensorKind, TensorSpec


@dataclass(frozen=True, slots=True, repr=False)
class ProducerKeys:
    """The derived keys, the key of the closing set, and the worker's signing key."""

    attempt: AttemptKeys
    close: bytes
    signing: SigningKey


@dataclass(frozen=True, slots=True)
class Finished:
    """What ends an attempt: the leaf table as last chunk, the sealed manifest, the receipt."""

    leaf_table: SealedChunk
    sealed_manifest: bytes
    receipt: bytes
    root: bytes
    chunk_count: int


@dataclass(slots=True)
class StateProducer:
    """Seals one attempt's chunks in the order they come; each index is sealed once.

    Not thread-safe: the caller adds from one place at a time, since the order is the index.
    """

    context: AttemptContext
    keys: ProducerKeys
    _leaves: list[tuple[bytes, bytes]] = field(default_factory=list)
    _finished: bool = False
    raw_bytes: int = 0
    sent_bytes: int = 0

    def add(self, spec: TensorSpec, payload: bytes, codec: Codec, *, closing: bool) -> SealedChunk:
        """Seal one coded range of a tensor; `closing` puts it behind the key in the manifest.

        Raises `LimitExceeded` beyond 4 MiB raw and `ChannelError` after `finish`.
        """
        if spec.nbytes > MAX_CHUNK_BYTES:
            raise LimitExceeded.of("raw bytes of a chunk", spec.nbytes, MAX_CHUNK_BYTES)
        header = ChunkHeader(
            len(self._leaves),
            Role.PIECE,
            KeyClass.CLOSE if closing else KeyClass.STREAM,
            spec.layer,
            spec.kind,
            spec.dtype,
            spec.layout,
            codec,
            spec.token_start,
            spec.token_end,
            spec.head_start,
            spec.head_end,
            spec.nbytes,
            len(payload),
        )
        self.raw_bytes += spec.nbytes
        return self._seal(header, payload)

    def _seal(self, header: ChunkHeader, payload: bytes) -> SealedChunk:
        if self._finished:
            raise ChannelError(f"chunk {header.index} comes after the attempt was finished")
        if header.index >= MAX_CHUNKS:
            raise LimitExceeded.of("chunks of a state", header.index + 1, MAX_CHUNKS)
        closing = header.key_class is KeyClass.CLOSE
        key = self.keys.close if closing else self.keys.attempt.stream
        ciphertext = seal_chunk(key, self.context, header, payload)
        digest = chunk_digest(ciphertext)
        self._leaves.append((header.encode(), digest))
        self.sent_bytes += len(ciphertext)
        return SealedChunk(header, ciphertext, digest)

    def finish(
        self, tensors: tuple[ManifestTensor, ...], manifest: StateManifest, receipt: UsageReceipt
    ) -> Finished:
        """Seal the leaf table, then sign and seal the manifest and sign the receipt.

        `manifest` and `receipt` come with the fields that only the end knows left at anything:
        tensors, chunk count, digests, root, close key and byte counts are filled in here.
        """
        table = leaf_table(self._leaves)
        if len(table) > MAX_LEAF_TABLE_BYTES:
            raise LimitExceeded.of("bytes of the leaf table", len(table), MAX_LEAF_TABLE_BYTES)
        leaf_chunk = self._seal(leaf_table_header(len(self._leaves), len(table)), table)
        self._finished = True
        root = exchange_root(digest for _, digest in self._leaves)
        complete = replace(
            manifest,
            tensors=tensors,
            chunk_count=len(self._leaves),
            leaf_table_digest=leaf_chunk.digest,
            root=root,
            close_key=self.keys.close,
            receipt_id=receipt.receipt_id,
        )
        signed = sign_manifest(self.keys.signing, complete)
        sealed = seal_manifest(self.keys.attempt, self.context, signed)
        billed = replace(
            receipt,
            root=root,
            state_bytes_raw=self.raw_bytes,
            state_bytes_sent=self.sent_bytes,
        )
        signed_receipt = sign_receipt(self.keys.signing, billed)
        return Finished(leaf_chunk, sealed, signed_receipt, root, len(self._leaves))


def leaf_table_header(index: int, size_bytes: int) -> ChunkHeader:
    """The header of the last chunk: no tensor's, so its tensor fields are the lowest legal ones."""
    plain = (TensorKind.KV, Dtype.FLOAT32, Layout.TOKEN_MAJOR, Codec.RAW)
    return ChunkHeader(
        index, Role.LEAF_TABLE, KeyClass.STREAM, 0, *plain, 0, 0, 0, 0, size_bytes, size_bytes
    )
