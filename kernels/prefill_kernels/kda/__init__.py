"""Kimi Delta Attention: the obvious recurrence (`naive_kda`) and its chunk form (`chunk_kda`)."""

from prefill_kernels.kda.chunk import chunk_kda
from prefill_kernels.kda.naive import naive_kda

__all__ = ["chunk_kda", "naive_kda"]
