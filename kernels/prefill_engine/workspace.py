"""Scratch memory of a forward pass: the same pages for every layer, step and sequence."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor


class Workspace:
    """Lends float32 tensors by name; what a name held before is overwritten.

    Fresh pages are what costs (a first touch is ten to thirty times slower than a copy), so a
    buffer only ever grows to the largest step it has seen. Layer after layer asks for the same
    shapes, so what a name was lent as last is kept.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._lent: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """A contiguous tensor of this shape, its contents undefined."""
        lent = self._lent.get(name)
        if lent is not None and lent.shape == shape:
            return lent
        count = prod(shape)
        kept = self._buffers.get(name)
        if kept is None or kept.numel() < count:
            kept = self._buffers[name] = torch.empty(count)
        lent = self._lent[name] = kept[:count].view(shape)
        return lent

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self._buffers.values())
