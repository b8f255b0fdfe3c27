"""What a gateway tells at /metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class GatewayMetrics:
    """Counters of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.opens = Counter(
            "prefill_gateway_opens", "Opens by outcome", ["outcome"], registry=self.registry
        )
        self.refusals = Counter(
            "prefill_gateway_refusals", "Refusals by status code", ["code"], registry=self.registry
        )
        self.receipts = Counter(
            "prefill_gateway_receipts", "Receipts made durable", registry=self.registry
        )
        self.tokens = Counter(
            "prefill_gateway_billed_tokens", "Prompt tokens of receipts", registry=self.registry
        )

    def watch(self, live_workers: Callable[[], float], requests: Callable[[], float]) -> None:
        """Read two values whenever somebody asks."""
        Gauge(
            "prefill_gateway_live_workers", "Workers that answer", registry=self.registry
        ).set_function(live_workers)
        Gauge(
            "prefill_gateway_requests_held", "Requests held", registry=self.registry
        ).set_function(requests)
