"""What a session is asked for, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

import numpy as np
from prefill_wire.receipt import UsageReceipt
from prefill_wire.status import StatusCode

from prefill_cloud.clock import check_deadline
from prefill_cloud.decode.sampling import Sampling
from prefill_cloud.errors import error_for
from prefill_cloud.policy import Route
from prefill_cloud.quality import CodecPolicy, check_policy
from prefill_cloud.timeline import Timeline

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]] | np.ndarray
FinishReason = Literal["length", "stop"]


class Options(TypedDict, total=False):
    """Keyword options of `generate` and `stream`; `Wish` has their meaning and defaults."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: str | Sequence[str | int]
    deadline_seconds: float
    datacenters: Sequence[str]
    residency: Sequence[str]
    max_price_micros: int
    idempotency_key: str | None
    codec_policy: CodecPolicy | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One generation's options, checked.

    `stop`: strings and token ids that end it. `deadline_seconds`: until the prompt is prefilled,
    wherever that is; decoding takes as long as it takes. `codec_policy`: how the state travels;
    by default the client's, and without one `exact` where the answer is `repeatable`.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: str | Sequence[str | int] = ()
    deadline_seconds: float = 120.0
    datacenters: Sequence[str] = ()
    residency: Sequence[str] = ()
    max_price_micros: int = 0
    idempotency_key: str | None = None
    codec_policy: CodecPolicy | None = None
    sampling: Sampling = field(init=False)

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            message = f"max_new_tokens is {self.max_new_tokens}, not 1 or more."
            raise error_for(StatusCode.MALFORMED_REQUEST, message)
        check_deadline(self.deadline_seconds)
        check_policy(self.codec_policy)
        sampling = Sampling(temperature=self.temperature, top_p=self.top_p, seed=self.seed)
        object.__setattr__(self, "sampling", sampling)

    @property
    def repeatable(self) -> bool:
        """Whether the same call has to give the same tokens again, wherever it is prefilled."""
        return self.temperature == 0.0 or self.seed is not None

    @property
    def stop_strings(self) -> list[str]:
        """The texts among `stop`."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop
        return [stop for stop in stops if isinstance(stop, str)]

    @property
    def stop_tokens(self) -> frozenset[int]:
        """The token ids among `stop`."""
        return frozenset(stop for stop in self.stop if isinstance(stop, int))


@dataclass(frozen=True, slots=True)
class GeneratedPiece:
    """One token, and the text that it settled (often all of it, sometimes none).

    `token` is None in the last piece, when only text is left that was held back.
    """

    token: int | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A whole answer and how it came about.

    `tokens`: all that were generated, a stop token included; `text` ends before what stopped it
    and is empty without a vocabulary. `route` says where the prompt was prefilled, `reason` why;
    `fallback_code` is set when the cloud was asked and could not. `request_id` is empty when no
    attempt was opened; codec policy, receipt, bytes and amount are the cloud's, or nothing.
    """

    tokens: list[int] = field(repr=False)
    text: str = field(repr=False)
    finish_reason: FinishReason
    route: Route
    reason: str
    fallback_code: StatusCode | None
    request_id: str
    prompt_tokens: int
    timeline: Timeline
    codec_policy: str
    bytes_raw: int
    bytes_sent: int
    amount_micros: int
    receipt: UsageReceipt | None
