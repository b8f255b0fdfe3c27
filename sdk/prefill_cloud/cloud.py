"""What a session asks of a client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from prefill_wire.identity import ModelIdentity
from prefill_wire.tensors import StateSchema

from prefill_cloud.clock import Clock
from prefill_cloud.download import PrefillProgress
from prefill_cloud.hints import ThresholdHint
from prefill_cloud.options import Fallback
from prefill_cloud.quality import CodecPolicy
from prefill_cloud.state import PrefilledState


class Cloud(Protocol):
    """Prefills elsewhere; `AsyncClient` is one, so that a session need not know how."""

    clock: Clock
    fallback: Fallback
    codec_policy: CodecPolicy | None
    hint: ThresholdHint

    async def prefill(  # noqa: PLR0913 (as `AsyncClient.prefill` has them)
        self,
        tokens: np.ndarray,
        identity: ModelIdentity,
        schema: StateSchema,
        *,
        deadline_seconds: float,
        datacenters: Sequence[str],
        residency: Sequence[str],
        max_price_micros: int,
        idempotency_key: str | None,
        codec_policy: CodecPolicy | None,
        on_progress: Callable[[PrefillProgress], None] | None,
        local_prefix_tokens: int,
    ) -> PrefilledState:
        """The verified state of `tokens[:-1]`; raises `PrefillCloudError`."""
        ...
