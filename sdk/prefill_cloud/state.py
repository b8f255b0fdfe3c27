"""What a prefill in the cloud comes to: a verified state, or an exception; nothing in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from prefill_wire.codecs import Codec
from prefill_wire.manifest import StateManifest
from prefill_wire.receipt import UsageReceipt
from prefill_wire.tensors import Dtype, TensorKind

from prefill_cloud.timeline import Timeline


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PrefilledState:
    """The state of tokens 0 to N-2, whole and verified; the engine recomputes token N-1.

    `tensors` by (layer, kind), shapes and dtypes as in the model's schema, bfloat16 as uint16;
    the caller's own buffers when it gave some. A state is as secret as its prompt.
    """

    tensors: Mapping[tuple[int, TensorKind], np.ndarray]
    manifest: StateManifest
    receipt: UsageReceipt
    amount_micros: int
    datacenter: str
    timeline: Timeline

    @property
    def request_id(self) -> str:
        """What to quote to support."""
        return self.manifest.request_id

    @property
    def state_tokens(self) -> int:
        """Tokens that the state covers: N-1."""
        return self.manifest.state_tokens

    @property
    def codec_policy(self) -> str:
        """The policy that it was asked for under."""
        return self.manifest.codec_policy

    @property
    def codecs(self) -> Mapping[tuple[int, TensorKind], str]:
        """By tensor, how it travelled."""
        return {each.spec.key: each.codec.wire_name for each in self.manifest.tensors}

    @property
    def error_bounds(self) -> Mapping[tuple[int, TensorKind], float]:
        """By tensor, the largest absolute error of any element, as its maker signed; 0: exact."""
        return {each.spec.key: each.error_bound for each in self.manifest.tensors}

    @property
    def exact(self) -> bool:
        """Whether every bit came back, by the codecs that were held to: not by what a worker says
        of its errors."""
        kept = {(Codec.BF16, Dtype.BFLOAT16)}  # nothing is rounded
        return all(
            each.codec.lossless or (each.codec, each.spec.dtype) in kept
            for each in self.manifest.tensors
        )

    @property
    def bytes_raw(self) -> int:
        """Bytes of the tensors."""
        return self.receipt.state_bytes_raw

    @property
    def bytes_sent(self) -> int:
        """Bytes that travelled, sealed and coded."""
        return self.receipt.state_bytes_sent

    def __repr__(self) -> str:
        raw, sent = self.bytes_raw, self.bytes_sent
        size = f"{self.state_tokens} tokens, {raw} bytes raw, {sent} sent"
        return f"PrefilledState({self.request_id}, {size})"
