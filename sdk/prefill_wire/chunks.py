"""A sealed chunk's header: fixed size, plain, and bound into the seal as associated data."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from prefill_wire.codecs import Codec, codec
from prefill_wire.digests import DIGEST_BYTES
from prefill_wire.errors import IntegrityError, LimitExceeded, MalformedFrame, UnsupportedVersion
from prefill_wire.limits import (
    MAX_CHUNK_BYTES,
    MAX_CHUNKS,
    MAX_PAYLOAD_BYTES,
    MAX_PROMPT_TOKENS,
    WIRE_VERSION,
)
from prefill_wire.pb import prefill_pb2
from prefill_wire.tensors import Dtype, Layout, TensorKind, tensor_kind

# version, index, role, key class, layer, kind, dtype, layout, codec, tokens, heads, raw, payload
_HEADER = struct.Struct("<HIBBHBBBBQQIIQQ")
HEADER_BYTES = _HEADER.size
LEAF_BYTES = HEADER_BYTES + DIGEST_BYTES + 6  # two bytes before either, and before the leaf


class Role(IntEnum):
    """Whether a chunk carries a piece of a tensor or the leaf table."""

    PIECE = 1
    LEAF_TABLE = 2


class KeyClass(IntEnum):
    """STREAM opens as soon as the envelope is open; CLOSE needs the key inside the manifest."""

    STREAM = 1
    CLOSE = 2


@dataclass(frozen=True, slots=True)
class ChunkHeader:
    """Which part of which tensor a chunk carries, and how.

    `raw_bytes` is the size after decoding, `payload_bytes` before; the ciphertext is
    `SEAL_OVERHEAD_BYTES` longer than the payload.
    """

    index: int
    role: Role
    key_class: KeyClass
    layer: int
    kind: TensorKind
    dtype: Dtype
    layout: Layout
    codec: Codec
    token_start: int
    token_end: int
    head_start: int
    head_end: int
    raw_bytes: int
    payload_bytes: int

    def encode(self) -> bytes:
        """The header as it is framed, sealed over and listed in the leaf table."""
        return _HEADER.pack(
            WIRE_VERSION,
            self.index,
            self.role,
            self.key_class,
            self.layer,
            self.kind,
            self.dtype,
            self.layout,
            self.codec,
            self.token_start,
            self.token_end,
            self.head_start,
            self.head_end,
            self.raw_bytes,
            self.payload_bytes,
        )

    @classmethod
    def decode(cls, data: bytes) -> ChunkHeader:
        """Parse and bound every field; raises a `WireError` before anything is allocated."""
        if len(data) != HEADER_BYTES:
            raise MalformedFrame(f"a chunk header has {HEADER_BYTES} bytes, got {len(data)}")
        version, index, role, key_class, layer, kind, dtype, layout, code, *ranges = _HEADER.unpack(
            data
        )
        if version != WIRE_VERSION:
            raise UnsupportedVersion(f"chunk of wire version {version}, this side speaks 1")
        try:
            parsed = (Role(role), KeyClass(key_class), layer, tensor_kind(kind))
            header = cls(index, *parsed, Dtype(dtype), Layout(layout), codec(code), *ranges)
        except ValueError as error:
            raise IntegrityError(f"chunk {index}: {error}") from None
        header.check()
        return header

    def check(self) -> None:
        """Hold every size and range to its limit."""
        leaf = self.role is Role.LEAF_TABLE
        # A table has a leaf for each chunk before it, so a small state's is small.
        table_bytes = LEAF_BYTES * min(self.index, MAX_CHUNKS)
        if leaf and self.key_class is not KeyClass.STREAM:
            raise IntegrityError(f"chunk {self.index}: a leaf table is never in the closing set")
        bounds = (
            ("chunk index", self.index, MAX_CHUNKS - 1),
            ("raw bytes", self.raw_bytes, table_bytes if leaf else MAX_CHUNK_BYTES),
            ("payload bytes", self.payload_bytes, table_bytes if leaf else MAX_PAYLOAD_BYTES),
            ("token range's end", self.token_end, MAX_PROMPT_TOKENS),
            ("token range's start", self.token_start, self.token_end),
            ("head range's start", self.head_start, self.head_end),
        )
        for thing, value, limit in bounds:
            if value > limit:
                raise LimitExceeded.of(f"chunk {self.index}: {thing}", value, limit)

    @property
    def key(self) -> tuple[int, TensorKind]:
        """Layer and kind of the tensor that this is a part of."""
        return self.layer, self.kind


@dataclass(frozen=True, slots=True)
class SealedChunk:
    """A chunk as it is stored and sent; retransmission serves these very bytes."""

    header: ChunkHeader
    ciphertext: bytes
    digest: bytes


def leaf_table(leaves: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The payload of the last chunk: header and digest of every other one, in their order."""
    listed = [prefill_pb2.Leaf(header=header, digest=digest) for header, digest in leaves]
    return prefill_pb2.LeafTable(leaves=listed).SerializeToString(deterministic=True)
