"""The native forms of the codecs, where a compiler is and the array is one that they take."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from prefill_kernels.native import native
from prefill_kernels.pack.element import ElementType

_kept = threading.local()


def kernels(array: np.ndarray, element: ElementType) -> Any:
    """The library, or None: the numpy form then works, or says what is wrong with the array."""
    plain = array.dtype == np.dtype(element.numpy_name) and array.flags.c_contiguous
    return native().library if plain else None


def is_bf16(element: ElementType) -> int:
    """The flag that the native forms take."""
    return int(element is ElementType.BFLOAT16)


def buffer(count: int) -> np.ndarray:
    """Bytes of this thread to put a payload together in: fresh pages cost more than the coding.

    Valid until the thread's next call.
    """
    kept: np.ndarray | None = getattr(_kept, "buffer", None)
    if kept is None or len(kept) < count:
        kept = _kept.buffer = np.empty(count, np.uint8)
    return kept[:count]


def forget_buffer() -> None:
    """Give the memory back; the next payload gets exactly what it needs."""
    _kept.buffer = None
