"""Weights from a checkpoint folder by safetensors, in float32, under one set of names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from prefill_engine.errors import CheckpointError

RESTORE = "restore the file from the release"


def read_config(path: Path) -> dict[str, Any]:
    """config.json of a folder."""
    file = path / "config.json"
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}", RESTORE) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} is not a JSON object", RESTORE)
    return config


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a folder: those of its index, or the only one."""
    index = path / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{index} cannot be read: {error}", RESTORE) from error
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index} names {name!r} outside the folder", RESTORE)
        if not (path / name).is_file():
            raise CheckpointError(f"{path / name} is missing", RESTORE)
    return [path / name for name in names]


def _canonical(name: str) -> str:
    """The release's name; save_pretrained calls even the dense MLP `block_sparse_moe`."""
    return name.replace(".block_sparse_moe.", ".mlp.").replace(".forget_gate.", ".")


class Weights:
    """Tensors by canonical name; `take` says which file's folder lacks one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tensors: dict[str, Tensor] = {}
        for file in weight_files(path):
            try:
                with safe_open(str(file), framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 - not a mapping
                        value = opened.get_tensor(name).to(torch.float32)
                        self._tensors[_canonical(name)] = value
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{file} cannot be read: {error}", RESTORE) from error

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds this tensor."""
        return name in self._tensors

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor in the given shape; the same number of elements is demanded."""
        if name not in self._tensors:
            raise CheckpointError(f"tensor {name} is missing from {self._path}", RESTORE)
        value = self._tensors[name]
        wanted = int(torch.Size(shape).numel())
        if value.numel() != wanted:
            raise CheckpointError(
                f"tensor {name} of {self._path} has shape {tuple(value.shape)}, not {shape}",
                "restore config.json and weights from one release",
            )
        return value.reshape(shape).contiguous()
