"""State codecs: arrays in, payload bytes out, and back into the caller's buffer. Needs no torch."""

from prefill_kernels.pack.codec import Codec, Encoded, codec, max_payload_bytes, names
from prefill_kernels.pack.element import ElementType, PackError

__all__ = ["Codec", "ElementType", "Encoded", "PackError", "codec", "max_payload_bytes", "names"]
