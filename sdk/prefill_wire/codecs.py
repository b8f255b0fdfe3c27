"""Names and numbers of the state codecs; what they do is `prefill_kernels.pack`'s affair."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import IntEnum

from prefill_wire.errors import UnsupportedCodec


class Codec(IntEnum):
    """A codec's number in chunk headers and manifests. A number is never given a second time."""

    RAW = 0
    PLANES_ZSTD = 1
    BF16 = 2
    INT8_ROW = 3
    FP8_ROW = 4
    HADAMARD_INT8 = 5
    HADAMARD_INT4 = 6
    INT12_ZSTD = 7

    @property
    def wire_name(self) -> str:
        """Its name in an offer."""
        return self.name.lower().replace("_", "-")

    @property
    def lossless(self) -> bool:
        """Whether every bit comes back; else the manifest tells how far an element may be off."""
        return self in (Codec.RAW, Codec.PLANES_ZSTD)


_BY_NAME = {each.wire_name: each for each in Codec}


def codec(value: int) -> Codec:
    """The codec with this number; a typed refusal for one that is newer than this code."""
    try:
        return Codec(value)
    except ValueError:
        raise UnsupportedCodec(f"codec {value} is unknown here") from None


def codec_by_name(name: str) -> Codec:
    """The codec with this name in an offer."""
    found = _BY_NAME.get(name)
    if found is None:
        raise UnsupportedCodec(f"codec {name[:40]!r} is unknown here")
    return found


def choose(preferred: Sequence[str], offered: Collection[str]) -> Codec:
    """The first of the preferred codecs that the other side decodes."""
    for name in preferred:
        if name in offered:
            return codec_by_name(name)
    raise UnsupportedCodec(f"offered {sorted(offered)[:8]}, supported {list(preferred)}")
