"""What a server counts, for Prometheus."""

from __future__ import annotations

from typing import Any

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        labels = ("route", "method", "status")
        self.requests = Counter("comem_requests", "Requests that were answered.", labels, **own)
        self.seconds = Histogram(
            "comem_request_seconds", "From request to end of response.", ("route",), buckets=_SECONDS, **own
        )
        self.first = Histogram(
            "comem_first_token_seconds", "From request to first text of a stream.", buckets=_SECONDS, **own
        )
        self.tokens = Counter("comem_tokens", "Tokens read, made, and of memory.", ("kind",), **own)
        self.batches = Histogram(
            "comem_batch_size",
            "Questions that were answered together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            **own,
        )
        self.busy = Histogram("comem_batch_seconds", "What a batch took.", buckets=_SECONDS, **own)
        self.waiting = Gauge("comem_waiting", "Questions that wait.", **own)
        self.items = Gauge("comem_items", "Items of the memory.", **own)

    def batch(self, size: int, seconds: float) -> None:
        """Count a batch."""
        self.batches.observe(size)
        self.busy.observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)
