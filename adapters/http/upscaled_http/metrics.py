"""Prometheus metrics of the HTTP side: requests, uploads, and the event loop's lag."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.registry import Collector

# From a probe on a quiet machine to an upload or a wait of minutes.
_DURATION_BUCKETS_S = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0)

# Every client notices a lag of 0.1 s.
_LAG_BUCKETS_S = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0)
_LAG_EVERY_S = 0.5


class _ServiceMetrics(Collector):
    """The service's own metrics."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterable[Metric]:
        return self._collect()


class RequestMetrics:
    """One registry per application, so that two applications in one process count separately."""

    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_ServiceMetrics(collect))
        self._requests = Counter(
            "upscaled_http_requests",
            "Requests answered; 499: the client left before the answer.",
            ["route", "method", "code"],
            registry=self.registry,
        )
        self._durations = Histogram(
            "upscaled_http_request_duration_seconds",
            "From the headers to the end of the answer.",
            ["route"],
            buckets=_DURATION_BUCKETS_S,
            registry=self.registry,
        )
        self._uploads = Counter(
            "upscaled_http_uploads_bytes", "Bytes of requests' bodies.", registry=self.registry
        )
        self._lag = Histogram(
            "upscaled_event_loop_lag_seconds",
            "Delay of a timer of the event loop.",
            buckets=_LAG_BUCKETS_S,
            registry=self.registry,
        )

    def observe(self, route: str, method: str, status: int, seconds: float, bytes_in: int) -> None:
        """Count one request."""
        self._requests.labels(route, method, str(status)).inc()
        self._durations.labels(route).observe(seconds)
        self._uploads.inc(bytes_in)

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self.registry)

    @asynccontextmanager
    async def watching_lag(self) -> AsyncIterator[None]:
        """Measure the event loop's lag while the context lasts."""
        task = asyncio.create_task(self._watch_lag())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _watch_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            self._lag.observe(max(0.0, loop.time() - due))
