"""The answer of `/api/health`: the server's own state, and its daemon's report."""

from __future__ import annotations

from typing import Any, NamedTuple

from upscaled_http.config import Settings
from upscaled_http.daemon import ChildDaemon
from upscaled_http.messages import Health, Limits
from upscaled_protocol.messages import HealthReport, HealthStatus
from upscaled_protocol.version import VERSION

_FROM_REPORT = ("models_loaded", "gpu_available", "gpu_name", "gpu_memory_free", "workers")


class JobCounts(NamedTuple):
    """Jobs that have not ended."""

    waiting: int
    open: int


def health_of(
    settings: Settings,
    daemon: ChildDaemon,
    report: HealthReport | None,
    jobs: JobCounts,
    *,
    uptime_s: float,
    is_draining: bool,
    journal_fault: str | None,
) -> Health:
    """The server's health. report: None if the daemon does not answer."""
    status, detail = _status_of(daemon, report, journal_fault)
    ready, limits = daemon.ready, settings.limits
    seen: dict[str, Any] = {}
    if report is not None:
        seen = {name: getattr(report, name) for name in _FROM_REPORT}
    return Health(
        status="draining" if is_draining else status,
        detail=detail,
        version=VERSION,
        uptime_s=round(uptime_s, 3),
        methods=ready.get("methods") or [],
        unavailable=ready.get("unavailable") or {},
        device=ready.get("device"),
        queue_size=jobs.waiting,
        in_flight=jobs.open,
        daemon_restarts=daemon.restarts,
        has_pipeline=settings.pipeline.bucket is not None,
        limits=Limits(
            max_request_mb=limits.max_request_mb,
            max_input_megapixels=limits.max_input_megapixels,
            max_output_megapixels=limits.max_output_megapixels,
            max_queue=limits.max_queue,
            rate_per_minute=limits.rate_per_minute,
            max_wait_s=settings.server.max_wait_s,
            job_timeout_s=limits.job_timeout_s,
        ),
        **seen,
    )


def _status_of(
    daemon: ChildDaemon, report: HealthReport | None, journal_fault: str | None
) -> tuple[HealthStatus, str | None]:
    if daemon.has_failed:
        return "failed", "no daemon can be kept running; the server's log has the reason"
    if report is not None:
        return report.status, report.detail
    if daemon.state == "starting":
        return "loading", None if journal_fault is None else "the journal cannot be used yet"
    if daemon.state == "ready":
        return "degraded", "the daemon does not answer"
    return "degraded", "the daemon ended, and is being started again"
