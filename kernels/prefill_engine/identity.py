"""Who a checkpoint is: a fingerprint over its canonical config and every tensor; no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from blake3 import blake3
from prefill_wire.identity import ModelIdentity

from prefill_engine.checkpoint_folder import RESTORE, read_config, read_json, weight_files
from prefill_engine.errors import CheckpointError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
MAX_HEADER_BYTES = 100 * 1024 * 1024  # safetensors' own limit
BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class CheckpointIdentity:
    """Names one model exactly; fingerprints are 32 bytes of BLAKE3."""

    name: str
    path: Path
    fingerprint: bytes
    tokenizer_fingerprint: bytes
    config: Mapping[str, Any]

    def on_the_wire(self, profile: str, name: str | None = None) -> ModelIdentity:
        """The identity that Open names, under a numerics profile; `name` is the served one."""
        served = self.name if name is None else name
        return ModelIdentity(served, self.fingerprint, self.tokenizer_fingerprint, profile)


def identify(path: Path, cache_dir: Path | None = None) -> CheckpointIdentity:
    """Identity of a folder; with `cache_dir`, tensor digests are kept by path, size and mtime."""
    path = Path(path)
    config = read_config(path)
    digest = blake3(derive_key_context="prefill-cloud 2026 model fingerprint v1")
    digest.update(json.dumps(config, sort_keys=True, separators=(",", ":")).encode())
    tensors: dict[str, str] = {}
    for file in weight_files(path):
        tensors.update(_file_digests(file, cache_dir))
    for name in sorted(tensors):
        digest.update(f"\n{name} {tensors[name]}".encode())
    tokenizer = blake3(derive_key_context="prefill-cloud 2026 tokenizer fingerprint v1")
    for name in TOKENIZER_FILES:
        if (path / name).is_file():
            tokenizer.update(f"{name}\n".encode() + blake3((path / name).read_bytes()).digest())
    name = path.resolve().name
    return CheckpointIdentity(name, path, digest.digest(), tokenizer.digest(), config)


def _file_digests(file: Path, cache_dir: Path | None) -> dict[str, str]:
    if cache_dir is None:
        return _hash_file(file)
    stat = file.stat()
    key = blake3(f"{file.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}".encode()).hexdigest()
    kept = cache_dir / f"{key}.json"
    if kept.is_file():
        try:
            return {str(k): str(v) for k, v in read_json(kept).items()}
        except CheckpointError:
            kept.unlink(missing_ok=True)  # a torn cache entry is computed again
    digests = _hash_file(file)
    cache_dir.mkdir(parents=True, exist_ok=True)
    fresh = kept.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(digests))
    fresh.replace(kept)
    return digests


def _hash_file(file: Path) -> dict[str, str]:
    """Digest of every tensor, bound to its dtype and shape, from the file's own header."""
    digests = {}
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        if not 2 <= size <= MAX_HEADER_BYTES:
            raise CheckpointError(f"{file} has a header of {size} bytes", RESTORE)
        try:
            header = json.loads(opened.read(size))
            header.pop("__metadata__", None)
            for name, entry in header.items():
                start, end = (8 + size + int(offset) for offset in entry["data_offsets"])
                digest = blake3(f"{entry['dtype']} {entry['shape']}\n".encode())
                if not _hash_range(opened, start, end, digest):
                    raise CheckpointError(f"{file} ends inside tensor {name}", RESTORE)
                digests[name] = digest.hexdigest()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file} has no safetensors header: {error}", RESTORE) from error
    return digests


def _hash_range(opened: BinaryIO, start: int, end: int, digest: blake3) -> bool:
    """Feed the file's bytes from `start` to `end`; False when it ends before."""
    opened.seek(start)
    left = end - start
    while left > 0:
        block = opened.read(min(left, BLOCK_BYTES))
        if not block:
            return False
        digest.update(block)
        left -= len(block)
    return True
