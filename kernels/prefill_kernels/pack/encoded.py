"""What an encode returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Encoded:
    """A payload, and the largest absolute error of any element; 0 for a lossless codec."""

    payload: bytes
    error_bound: float
