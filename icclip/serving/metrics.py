"""What `/metrics` tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

KNOWN = frozenset(
    {"/invocations", "/ping", "/live", "/v1/embeddings", "/search", "/info", "/metrics", "/openapi.json", "/"}
)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counters of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("icclip_requests", "Requests.", ["path", "status"], registry=self.registry)
        self._seconds = Histogram(
            "icclip_request_seconds", "Seconds of a request.", ["path"], buckets=SECONDS, registry=self.registry
        )
        self._batches = Histogram(
            "icclip_batch_size",
            "Inputs that were encoded together.",
            ["tower"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )
        self._waiting = Gauge("icclip_inputs_waiting", "Inputs that wait.", ["tower"], registry=self.registry)

    def done(self, path: str, status: int, seconds: float) -> None:
        """A request was answered; unknown paths share one label, so that strangers cannot make new ones."""
        name = path if path in KNOWN else "other"
        self._requests.labels(name, str(status)).inc()
        self._seconds.labels(name).observe(seconds)

    def batch(self, tower: str) -> Callable[[int], None]:
        """What a batcher tells the size of its batches."""
        return partial(self._size, tower)

    def _size(self, tower: str, size: int) -> None:
        self._batches.labels(tower).observe(size)

    def watch(self, tower: str, waiting: Callable[[], int]) -> None:
        """Ask for the length of a queue when Prometheus does."""
        self._waiting.labels(tower).set_function(waiting)

    def text(self) -> bytes:
        """In Prometheus's format."""
        return generate_latest(self.registry)
