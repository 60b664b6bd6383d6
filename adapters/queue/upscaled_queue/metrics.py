"""Prometheus metrics of a machine's queues, beside those of its daemon."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from upscaled_protocol import metricsserver
from upscaled_queue.depth import depth
from upscaled_queue.machine import Machine
from upscaled_queue.outbox import Outbox
from upscaled_queue.record import Records
from upscaled_webhooks.webhooks import pending_metric

# By the names that `Ends` counts under.
_DELIVERIES = {"delivered_first": "first", "delivered_again": "again", "given_back": "given_back"}
_ENDS = {"ended_result": "completed", "ended_error": "failed"}
# By the names that `depth` has.
_GAUGES = {
    "waiting": ("waiting", "Jobs that wait in the queue."),
    "running": ("running", "Jobs that run, on all machines."),
    "machines": ("machines", "Machines that serve the method."),
    "oldest_s": ("oldest_seconds", "Seconds that the oldest waiting job has waited."),
}


class QueueCollector(Collector):
    """Asks the queue at each scrape. While the queue is away, there are only this machine's own
    counts."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        settings = machine.settings
        # With a client that fails at once: a scraper does not wait.
        self._records = Records(settings.url.record, settings.keep_s)
        self._outbox = Outbox(settings.url.record, settings.machine)

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        yield from self._gauges()
        counts = self._machine.ends.counts
        deliveries = CounterMetricFamily(
            "upscaled_queue_deliveries", "Deliveries to this machine.", labels=["reason"]
        )
        for name, reason in _DELIVERIES.items():
            deliveries.add_metric([reason], counts.get(name, 0))
        ends = CounterMetricFamily(
            "upscaled_queue_results", "Jobs that ended on this machine.", labels=["outcome"]
        )
        for name, outcome in _ENDS.items():
            ends.add_metric([outcome], counts.get(name, 0))
        fenced = CounterMetricFamily(
            "upscaled_queue_fenced", "Deliveries to this machine of jobs that had an end already."
        )
        fenced.add_metric([], counts.get("fenced", 0))
        yield from (deliveries, ends, fenced)
        if self._machine.pictures is not None:
            yield from self._machine.pictures.metrics.collect()
        if self._machine.sender is not None:
            yield from self._machine.sender.collect()

    def _gauges(self) -> Iterator[Metric]:
        try:
            depths = depth(self._machine.settings, self._records)
            pending = len(self._outbox)
        except Exception:  # noqa: BLE001 - an engine's outage has any class
            return
        for name, (metric, text) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"upscaled_queue_{metric}", text, labels=["method"])
            for method, numbers in depths.items():
                gauge.add_metric([method], numbers[name] or 0)
            yield gauge
        yield pending_metric(pending)


def serve_metrics(machine: Machine, address: str) -> None:
    """Serve the metrics at HOST:PORT. Raises as `metricsserver` does."""
    metricsserver.serve_metrics(address, QueueCollector(machine))
