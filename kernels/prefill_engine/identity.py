"""Who a checkpoint is: a fingerprint over its canonical config and every tensor; no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from prefill_engine.errors import CheckpointError

RESTORE = "restore the file from the release"
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


def identify(path: Path, cache_dir: Path | None = None) -> CheckpointIdentity:
    """Identity of a folder; with `cache_dir`, tensor digests are kept by path, size and mtime."""
    path = Path(path)
    config = _json(path / "config.json")
    digest = blake3(derive_key_context="prefill-cloud 2026 model fingerprint v1")
    digest.update(json.dumps(config, sort_keys=True, separators=(",", ":")).encode())
    tensors: dict[str, str] = {}
    for file in _weight_files(path):
        tensors.update(_file_digests(file, cache_dir))
    for name in sorted(tensors):
        digest.update(f"\n{name} {tensors[name]}".encode())
    tokenizer = blake3(derive_key_context="prefill-cloud 2026 tokenizer fingerprint v1")
    for name in TOKENIZER_FILES:
        if (path / name).is_file():
            tokenizer.update(f"{name}\n".encode() + blake3((path / name).read_bytes()).digest())
    name = path.resolve().name
    return CheckpointIdentity(name, path, digest.digest(), tokenizer.digest(), config)


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}", RESTORE) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} is not a JSON object", RESTORE)
    return value


def _weight_files(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    weights = _json(index).get("weight_map") if index.exists() else {"": "model.safetensors"}
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{index} has no weight_map", RESTORE)
    files = [path / str(name) for name in sorted(set(weights.values()))]
    for file in files:
        if file.parent != path:
            raise CheckpointError(f"{index} names {file} outside the folder", RESTORE)
        if not file.is_file():
            raise CheckpointError(f"{file} is missing", RESTORE)
    return files


def _file_digests(file: Path, cache_dir: Path | None) -> dict[str, str]:
    if cache_dir is None:
        return _hash_file(file)
    stat = file.stat()
    key = blake3(f"{file.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}".encode()).hexdigest()
    kept = cache_dir / f"{key}.json"
    if kept.is_file():
        try:
            return {str(k): str(v) for k, v in _json(kept).items()}
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
                start, end = entry["data_offsets"]
                digest = blake3(f"{entry['dtype']} {entry['shape']}\n".encode())
                opened.seek(8 + size + start)
                left = end - start
                while left > 0:
                    block = opened.read(min(left, BLOCK_BYTES))
                    if not block:
                        raise CheckpointError(f"{file} ends inside tensor {name}", RESTORE)
                    digest.update(block)
                    left -= len(block)
                digests[name] = digest.hexdigest()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file} has no safetensors header: {error}", RESTORE) from error
    return digests
