"""Routes: where a request would go, and why."""

from __future__ import annotations

from collections.abc import Sequence

from prefill_cloud.manage.calls import Call, View, asking
from prefill_cloud.manage.verbs import M, Noun, verb


class RouteRequest(View, frozen=True, kw_only=True):
    """A request that is only asked about: its length decides, no prompt is sent."""

    model: str
    token_count: int
    local_prefix_tokens: int = 0
    datacenters: Sequence[str] = ()
    residency: Sequence[str] = ()


class Step(View, frozen=True, kw_only=True):
    """One rule: who was left after it, who fell by it, and why."""

    rule: str
    kept: Sequence[str]
    dropped: Sequence[str]
    reason: str


class Route(View, frozen=True, kw_only=True):
    """Where the request would go; `datacenter` is empty when it stays local or is refused."""

    outcome: str
    datacenter: str
    reason: str
    steps: Sequence[Step]


class Routes(Noun[M]):
    """`client.routes`."""

    @verb("explainRoute")
    def explain(self, request: RouteRequest) -> Call[Route]:
        """Say where a request would go and why, step by step; nothing is reserved."""
        return asking(Route, request, "routes", "explain")
