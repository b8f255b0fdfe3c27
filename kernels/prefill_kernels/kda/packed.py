"""Sequences packed one after another: what KDA takes and gives, and where they may be cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor


class KdaResult(NamedTuple):
    """Outputs `[T, H, V]`, states `[N, H, K, V]` at the ends and `[M, H, K, V]` at the bounds."""

    out: Tensor
    states: Tensor
    bound_states: Tensor


class KdaInputs(NamedTuple):
    """Packed tokens: q, k, g `[T, H, K]`, v `[T, H, V]`, beta `[T, H]`; as `naive_kda` has them."""

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    beta: Tensor


def check_cuts(starts: Sequence[int], length: int, bounds: Sequence[int]) -> None:
    """`ValueError` unless starts ascend from 0 to `length`, and bounds within 1 to it."""
    if starts[0] != 0 or starts[-1] != length or any(a >= b for a, b in pairwise(starts)):
        raise ValueError(f"starts {list(starts)} do not ascend from 0 to {length}")
    if any(a >= b for a, b in pairwise([0, *bounds])) or (bounds and bounds[-1] > length):
        raise ValueError(f"bounds {list(bounds)} do not ascend within 1 to {length}")
