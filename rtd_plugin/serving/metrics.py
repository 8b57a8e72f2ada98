"""What the service counts, in the format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counters of one service."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = Counter(
            "rtd_requests", "Requests by path and status.", ["path", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "rtd_request_seconds", "Time of a request.", ["path"], buckets=SECONDS, registry=self._registry
        )
        self.batches = Histogram(
            "rtd_batch_queries", "Queries that were encoded together.", buckets=SIZES, registry=self._registry
        )
        self.active = Gauge("rtd_active_queries", "Queries that are in work or wait.", registry=self._registry)
        self.images = Gauge("rtd_gallery_images", "Images of the gallery.", registry=self._registry)

    def write(self) -> bytes:
        """Return all of them as text."""
        return generate_latest(self._registry)
