"""Counters and histograms in Prometheus's text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

OTHER_MODEL = "(unknown)"  # names from requests would grow the page without limit
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        """Create all metrics at zero."""
        self._registry = CollectorRegistry()
        self._known_models: set[str] = set()
        self.requests = Counter(
            "satx_requests", "Requests by model and HTTP status.", ["model", "status"], registry=self._registry
        )
        self.latency_seconds = Histogram(
            "satx_request_latency_seconds", "Time from the request's head to its answer.", ["model"],
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self.decode_seconds = Histogram(
            "satx_decode_seconds", "Time to decode an image and resize it.", buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self.batch_sizes = Histogram(
            "satx_batch_size", "Rows of an executed batch.", ["model"], buckets=(1, 2, 4, 8, 12, 16, 20, 24, 28, 32),
            registry=self._registry,
        )  # fmt: skip
        self.waiting_rows = Gauge(
            "satx_waiting_rows",
            "Rows that are being decoded, wait or are computed.",
            ["model"],
            registry=self._registry,
        )
        self.loaded_versions = Gauge(
            "satx_loaded_versions", "Versions that are available.", ["model"], registry=self._registry
        )

    def set_model(self, model: str, *, loaded_versions: int) -> None:
        """Record how many versions of a model are available; its requests are counted under its name from then on."""
        self._known_models.add(model)
        self.loaded_versions.labels(model).set(loaded_versions)

    def observe(self, model: str, status: int, seconds: float) -> None:
        """Count a request."""
        name = model if model in self._known_models else OTHER_MODEL
        self.requests.labels(name, str(status)).inc()
        self.latency_seconds.labels(name).observe(seconds)

    def page(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)
