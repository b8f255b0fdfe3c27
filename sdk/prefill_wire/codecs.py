"""Names and numbers of the state codecs; what they do is `prefill_kernels.pack`'s affair."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from prefill_wire.errors import UnsupportedCodec


class Codec(IntEnum):
    """A codec's number in chunk headers and manifests."""

    RAW = 0
    PLANES_ZSTD = 1

    @property
    def wire_name(self) -> str:
        """Its name in an offer."""
        return {Codec.RAW: "raw", Codec.PLANES_ZSTD: "planes-zstd"}[self]


def codec(value: int) -> Codec:
    """The codec with this number; a typed refusal for one that is newer than this code."""
    try:
        return Codec(value)
    except ValueError:
        raise UnsupportedCodec(f"codec {value} is unknown here") from None


def codec_by_name(name: str) -> Codec:
    """The codec with this name in an offer."""
    for candidate in Codec:
        if candidate.wire_name == name:
            return candidate
    raise UnsupportedCodec(f"codec {name[:40]!r} is unknown here")


def choose(offered: Sequence[str], supported: Sequence[str]) -> Codec:
    """The first codec of the offer that the worker supports."""
    for name in offered:
        if name in supported:
            return codec_by_name(name)
    raise UnsupportedCodec(f"offered {list(offered)[:8]}, supported {list(supported)}")
