"""Prometheus metrics over HTTP, read from the fleet and the ledger at each request.

upscaled_jobs_total{method="esrgan",outcome="completed"} 41
upscaled_job_duration_seconds_bucket{method="esrgan",le="2.5"} 40
upscaled_queue_size 3
upscaled_jobs_in_flight 5
upscaled_worker_restarts_total{reason="signal"} 1
upscaled_worker_up{worker="0"} 1
upscaled_worker_resident_memory_bytes{worker="0"} 7.3e+08
upscaled_progress_dropped_total 0
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from upscaled_protocol import metricsserver
from upscaled_protocol.outbox import Outbox
from upscaled_supervisor.fleet import Fleet
from upscaled_supervisor.ledger import DURATION_BUCKETS_S, Ledger

_MIB = 1024 * 1024


def serve_metrics(address: str, fleet: Fleet, ledger: Ledger, outbox: Outbox) -> None:
    """Serve the metrics at HOST:PORT. Raises as `metricsserver` does."""
    metricsserver.serve_metrics(address, FleetCollector(fleet, ledger, outbox))


class FleetCollector(Collector):
    """Collects in the server's thread, from copies, because the loop changes the originals."""

    def __init__(self, fleet: Fleet, ledger: Ledger, outbox: Outbox) -> None:
        self._fleet = fleet
        self._ledger = ledger
        self._outbox = outbox

    def collect(self) -> Iterator[Metric]:
        jobs = CounterMetricFamily(
            "upscaled_jobs", "Jobs ended, by outcome.", labels=["method", "outcome"]
        )
        for labels, count in list(self._ledger.outcomes.items()):
            jobs.add_metric([str(label) for label in labels], count)
        yield jobs
        yield self._durations()
        yield GaugeMetricFamily(
            "upscaled_queue_size", "Jobs that wait for a worker.", value=len(self._ledger.queue)
        )
        yield GaugeMetricFamily(
            "upscaled_jobs_in_flight", "Jobs waiting or running.", value=len(self._ledger.jobs)
        )
        yield CounterMetricFamily(
            "upscaled_progress_dropped",
            "Progress messages replaced by newer ones for a slow host.",
            value=self._outbox.dropped_progress,
        )
        restarts = CounterMetricFamily(
            "upscaled_worker_restarts", "Workers replaced, by reason.", labels=["reason"]
        )
        for reason, count in list(self._fleet.restarts.items()):
            restarts.add_metric([reason], count)
        yield restarts
        yield from self._workers()

    def _durations(self) -> Metric:
        family = HistogramMetricFamily(
            "upscaled_job_duration_seconds", "From start to end.", labels=["method"]
        )
        for method, counts in list(self._ledger.durations.items()):
            *buckets, total = counts
            running = 0.0
            rows = []
            for bound, count in zip((*DURATION_BUCKETS_S, "+Inf"), buckets, strict=True):
                running += count
                rows.append((str(bound), running))
            family.add_metric([method], rows, total)
        return family

    def _workers(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("upscaled_worker_up", "1 while it takes jobs.", labels=["worker"])
        memory = GaugeMetricFamily(
            "upscaled_worker_resident_memory_bytes", "Resident memory.", labels=["worker"]
        )
        for slot in self._fleet.slots:
            child = slot.child
            answers = child is not None and not child.is_unresponsive
            up.add_metric([str(slot.number)], float(slot.is_serving and answers))
            resident = child.resident_mb if child is not None else None
            if resident is not None:
                memory.add_metric([str(slot.number)], resident * _MIB)
        yield up
        yield memory
