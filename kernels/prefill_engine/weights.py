"""Weights from a checkpoint folder by safetensors, in float32, under one set of names."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from prefill_engine.checkpoint_folder import RESTORE, weight_files
from prefill_engine.errors import CheckpointError


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
