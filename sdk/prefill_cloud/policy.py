"""Local or cloud: a pure decision over what the SDK knows before it opens a request."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Route(StrEnum):
    """Where a prompt is prefilled."""

    LOCAL = "local"
    CLOUD = "cloud"


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is known about one prompt.

    `price_micros` is the cache-miss price; a cap of 0 means no cap. Predictions are of this
    prompt's prefill, the cloud's including transfer.
    """

    prompt_tokens: int
    local_prefix_tokens: int
    routing_threshold_tokens: int
    price_micros: int = 0
    max_price_micros: int = 0
    deadline_seconds: float = float("inf")
    predicted_local_seconds: float = 0.0
    predicted_cloud_seconds: float = 0.0

    @property
    def uncached_tokens(self) -> int:
        """Tokens that somebody has to prefill (arXiv 2604.15039: l_total - l_prefix)."""
        return max(0, self.prompt_tokens - self.local_prefix_tokens)


@dataclass(frozen=True, slots=True)
class Decision:
    """A route, and why, in words for a log line or a result."""

    route: Route
    reason: str


def decide(situation: Situation) -> Decision:
    """The first rule that applies wins; without one the cloud prefills."""
    uncached, threshold = situation.uncached_tokens, situation.routing_threshold_tokens
    price, cap = situation.price_micros, situation.max_price_micros
    if situation.prompt_tokens < 2:  # the state covers N-1 tokens: there is none
        return Decision(Route.LOCAL, f"{situation.prompt_tokens} tokens leave no state to move")
    if uncached <= threshold:
        return Decision(
            Route.LOCAL, f"{uncached} uncached tokens, at most the threshold of {threshold}"
        )
    if 0 < cap < price:
        return Decision(Route.LOCAL, f"price of {price} micros is above the cap of {cap}")
    left = situation.deadline_seconds - situation.predicted_local_seconds
    if situation.predicted_cloud_seconds > left:
        return Decision(
            Route.LOCAL, f"the deadline leaves {left:.2f} s before local prefill has to start"
        )
    above = f"above the threshold of {threshold}" if threshold else "and no threshold is known"
    return Decision(Route.CLOUD, f"{uncached} uncached tokens, {above}")
