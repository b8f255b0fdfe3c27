"""Kimi Delta Attention: the obvious recurrence, its chunk form, and the one that inference runs."""

from prefill_kernels.kda.chunk import chunk_kda
from prefill_kernels.kda.fast import prefill_kda
from prefill_kernels.kda.naive import naive_kda
from prefill_kernels.kda.packed import KdaInputs, KdaResult

__all__ = ["KdaInputs", "KdaResult", "chunk_kda", "naive_kda", "prefill_kda"]
