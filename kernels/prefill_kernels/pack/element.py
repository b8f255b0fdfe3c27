"""Element types, and the error of this package."""

from __future__ import annotations

from enum import IntEnum


class PackError(Exception):
    """A payload or array that a codec refuses; the message names both sizes."""


class ElementType(IntEnum):
    """What an array's elements mean; bfloat16 comes as uint16, since numpy has none."""

    FLOAT32 = 1
    BFLOAT16 = 2

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return 4 if self is ElementType.FLOAT32 else 2

    @property
    def numpy_name(self) -> str:
        """The little-endian numpy dtype of such an array."""
        return "<f4" if self is ElementType.FLOAT32 else "<u2"
