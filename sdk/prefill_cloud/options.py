"""Options that the sync client hands through to the asynchronous one, which explains them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypedDict

from prefill_cloud.clock import Clock
from prefill_cloud.download import PrefillProgress
from prefill_cloud.quality import CodecPolicy
from prefill_cloud.request import Buffers
from prefill_cloud.tuning import Tuning

Fallback = Literal["availability", "never"]


class ClientOptions(TypedDict, total=False):
    """Of `AsyncClient`."""

    tls_roots: bytes | None
    connections: int
    fallback: Fallback
    codec_policy: CodecPolicy | None
    tuning: Tuning | None
    clock: Clock | None


class PrefillOptions(TypedDict, total=False):
    """Of `AsyncClient.prefill`."""

    buffers: Buffers | None
    datacenters: Sequence[str]
    residency: Sequence[str]
    max_price_micros: int
    idempotency_key: str | None
    codec_policy: CodecPolicy | None
    on_progress: Callable[[PrefillProgress], None] | None
    local_prefix_tokens: int
