"""Decoding here: the seam for engines, the engine in this process, sampling and text."""

from prefill_cloud.decode.engine import DecodeEngine, Handle
from prefill_cloud.decode.local import LocalEngine
from prefill_cloud.decode.sampling import Sampling

__all__ = ["DecodeEngine", "Handle", "LocalEngine", "Sampling"]
