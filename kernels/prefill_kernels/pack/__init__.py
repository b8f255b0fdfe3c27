"""State codecs: arrays in, payload bytes out, and back into the caller's buffer. Needs no torch."""

from prefill_kernels.pack.codec import (
    Codec,
    codec,
    lossless_names,
    lossy_names,
    max_payload_bytes,
    names,
)
from prefill_kernels.pack.element import ElementType, PackError
from prefill_kernels.pack.encoded import Encoded

__all__ = [
    "Codec",
    "ElementType",
    "Encoded",
    "PackError",
    "codec",
    "lossless_names",
    "lossy_names",
    "max_payload_bytes",
    "names",
]
