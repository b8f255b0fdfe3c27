"""The prompt that every speed figure is measured on."""

from __future__ import annotations

import numpy as np

SEED = 7


def prompt(vocab_size: int, count: int) -> np.ndarray:
    """Token ids `[count]` uint32, the same for both sides."""
    return np.random.default_rng(SEED).integers(0, vocab_size, count, dtype=np.uint32)
