"""What this process counts; served at `/metrics`."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Metrics:
    """A registry of its own, so that two apps in one process do not share numbers."""

    def __init__(self, connections_out: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            "prefill_control_request_seconds",
            "Time from headers to committed answer",
            ["operation", "status"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.failures = Counter(
            "prefill_control_failures",
            "Requests that ended in a fault of ours or of a service below",
            ["kind"],
            registry=self.registry,
        )
        connections = Gauge(
            "prefill_control_database_connections_out",
            "Database connections lent out now",
            registry=self.registry,
        )
        connections.set_function(connections_out)

    def observe(self, operation: str, status: int, seconds: float) -> None:
        """One finished request."""
        self._seconds.labels(operation, str(status)).observe(seconds)

    def text(self) -> bytes:
        """Prometheus' text form."""
        return generate_latest(self.registry)
