"""Digests: BLAKE3, 32 bytes, one derive-key context per thing so that none passes for another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from blake3 import blake3

DIGEST_BYTES = 32
_CONTEXT = "prefill.cloud v1 "


def _hasher(thing: str) -> blake3:
    return blake3(derive_key_context=_CONTEXT + thing)


def token_bytes(tokens: Sequence[int] | np.ndarray) -> bytes:
    """Token ids as the wire carries them: little-endian uint32."""
    return np.ascontiguousarray(tokens, dtype="<u4").tobytes()


def prompt_digest(tokens: bytes) -> bytes:
    """The digest of a whole prompt, given as `token_bytes`."""
    return _hasher("prompt").update(tokens).digest()


def block_hashes(tokens: bytes, block_size_tokens: int, salt: bytes = b"") -> list[bytes]:
    """Chained hashes of the full blocks: each covers all tokens up to its block's end."""
    size = 4 * block_size_tokens
    parent, hashes = _hasher("block salt").update(salt).digest(), []
    for start in range(0, len(tokens) - size + 1, size):
        block = _hasher("block").update(parent).update(tokens[start : start + size])
        parent = block.digest()
        hashes.append(parent)
    return hashes


def chunk_digest(ciphertext: bytes | memoryview) -> bytes:
    """The digest of a sealed chunk, over its ciphertext."""
    return _hasher("chunk").update(ciphertext).digest()


def exchange_root(digests: Iterable[bytes]) -> bytes:
    """The root that a claim states: over all chunks' digests, in the order of their indices."""
    root = _hasher("root")
    for digest in digests:
        root.update(digest)
    return root.digest()


def key_hash(public_key: bytes) -> bytes:
    """The hash by which a manifest names the one-time key."""
    return _hasher("one-time key").update(public_key).digest()
