"""What a worker tells at /metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class WorkerMetrics:
    """Counters of one worker, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.attempts = Counter(
            "prefill_worker_attempts", "Attempts by outcome", ["outcome"], registry=self.registry
        )
        self.refusals = Counter(
            "prefill_worker_refusals", "Refusals by status code", ["code"], registry=self.registry
        )
        self.tokens = Counter(
            "prefill_worker_tokens", "Prompt tokens prefilled", registry=self.registry
        )
        self.sent_bytes = Counter(
            "prefill_worker_sent_bytes", "Bytes of sealed chunks sent", registry=self.registry
        )
        self.connections = Gauge(
            "prefill_worker_connections", "Open data connections", registry=self.registry
        )

    def watch(self, reserved_bytes: Callable[[], float], attempts: Callable[[], float]) -> None:
        """Read two values whenever somebody asks."""
        Gauge(
            "prefill_worker_reserved_bytes", "Memory of admitted attempts", registry=self.registry
        ).set_function(reserved_bytes)
        Gauge("prefill_worker_attempts_held", "Attempts held", registry=self.registry).set_function(
            attempts
        )

    def finished(self, token_count: int) -> None:
        """One attempt came to its manifest."""
        self.attempts.labels(outcome="finished").inc()
        self.tokens.inc(token_count)
