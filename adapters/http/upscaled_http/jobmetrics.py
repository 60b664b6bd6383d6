"""Prometheus metrics of the jobs, the workers, the daemon and the disk.

Families that `upscaled run --metrics-address` has too keep their names. They are counted here, from
the ends of jobs and from the daemon's report, so that a restart of the daemon does not reset them.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from upscaled_http.daemon import ChildDaemon
from upscaled_http.openjobs import OpenJobs
from upscaled_http.records import Record
from upscaled_http.storage import Storage
from upscaled_protocol.messages import HealthReport
from upscaled_supervisor.ledger import DURATION_BUCKETS_S

_MIB = 1024 * 1024
_SERVING = frozenset({"ready", "busy"})


class JobMetrics:
    """Counts since the start of the server."""

    def __init__(self, jobs: OpenJobs, daemon: ChildDaemon, storage: Storage) -> None:
        self._open_jobs = jobs
        self._daemon = daemon
        self._storage = storage
        # The daemon's newest report; None if it did not answer.
        self.report: HealthReport | None = None
        self._jobs = Counter(
            "upscaled_jobs", "Jobs ended, by outcome.", ["method", "outcome"], registry=None
        )
        self._durations = Histogram(
            "upscaled_job_duration_seconds",
            "From start to end.",
            ["method"],
            buckets=DURATION_BUCKETS_S,
            registry=None,
        )
        jobs.on_ended.append(self._count)

    def _count(self, record: Record) -> None:
        outcome = "completed" if record.status == "completed" else record.outcome.get("code")
        self._jobs.labels(record.method, outcome or record.status).inc()
        seconds = record.outcome.get("processing_time")
        if seconds is None and record.started_at is not None and record.finished_at is not None:
            seconds = max(0.0, record.finished_at - record.started_at)
        if seconds is not None:  # else the job never started
            self._durations.labels(record.method).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """All families."""
        yield from self._jobs.collect()
        yield from self._durations.collect()
        count, running = len(self._open_jobs), self._open_jobs.running
        yield GaugeMetricFamily(
            "upscaled_queue_size", "Jobs that wait for a worker.", value=count - running
        )
        yield GaugeMetricFamily("upscaled_jobs_in_flight", "Jobs waiting or running.", value=count)
        yield CounterMetricFamily(
            "upscaled_daemon_restarts",
            "Daemons that ended and were started again.",
            value=self._daemon.restarts,
        )
        restarts = CounterMetricFamily(
            "upscaled_worker_restarts", "Workers replaced, by reason.", labels=["reason"]
        )
        for reason, number in self._daemon.worker_restarts.items():
            restarts.add_metric([reason], number)
        yield restarts
        storage = GaugeMetricFamily("upscaled_storage_bytes", "Bytes on disk.", labels=["kind"])
        storage.add_metric(["uploads"], self._storage.uploads_bytes)
        storage.add_metric(["results"], self._storage.results_bytes)
        yield storage
        yield from self._workers()

    def _workers(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("upscaled_worker_up", "1 while it takes jobs.", labels=["worker"])
        memory = GaugeMetricFamily(
            "upscaled_worker_resident_memory_bytes", "Resident memory.", labels=["worker"]
        )
        for row in (self.report and self.report.workers) or ():
            up.add_metric([str(row.worker)], float(row.state in _SERVING))
            if row.rss_mb is not None:
                memory.add_metric([str(row.worker)], row.rss_mb * _MIB)
        yield up
        yield memory
