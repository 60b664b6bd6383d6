"""The messages about the worker itself: `ready`, `degraded`, `health`."""

from __future__ import annotations

import os
from collections.abc import Callable

from upscaled_protocol import PROTOCOL_VERSION
from upscaled_protocol.messages import HealthReport, HealthStatus, Status
from upscaled_protocol.version import VERSION
from upscaled_worker.engines import Engines
from upscaled_worker.jobs import Jobs
from upscaled_worker.stdio import Stdout


class Reports:
    """Sends them. `has_started` and `is_draining` are set by the owner."""

    def __init__(
        self, engines: Engines, jobs: Jobs, stdout: Stdout, clock: Callable[[], float]
    ) -> None:
        self._engines = engines
        self._jobs = jobs
        self._stdout = stdout
        self._clock = clock
        self._started_at = clock()
        self.has_started = False
        self.is_draining = False

    @property
    def state(self) -> HealthStatus:
        """For `health`."""
        if self.is_draining:
            return "draining"
        if not self.has_started:
            return "loading"
        return "degraded" if self._engines.faults else "ok"

    def send_ready(self) -> None:
        """Send `ready` with the methods that work. It is sent even if none does, because hosts wait
        for it before they send jobs, and those jobs get the reason as their error."""
        device = self._engines.device()
        faults = self._engines.faults
        if faults:
            self._stdout.send(Status(message="degraded", detail=faults))
        unavailable = self._engines.unavailable()
        self._stdout.send(
            Status(
                message="ready",
                detail=faults,
                protocol=PROTOCOL_VERSION,
                version=VERSION,
                methods=[one for one in self._engines.working if one not in unavailable],
                unavailable=unavailable or None,
                models=self._engines.models(),
                device=device.name if device else None,
                lanes=self._jobs.lanes.info(),
                pid=os.getpid(),
            )
        )

    def send_ready_again(self) -> None:
        """Send another `ready`, because one more method works."""
        if not self.is_draining:
            self.send_ready()

    def send_health(self, request_id: str | None) -> None:
        """Answer `health` or `trim`."""
        device = self._engines.device() if self.has_started else None
        self._stdout.send(
            HealthReport(
                request_id=request_id,
                status=self.state,
                detail=self._engines.faults,
                gpu_available=bool(device and device.gpu_name) if self.has_started else None,
                gpu_name=device.gpu_name if device else None,
                gpu_memory_free=device.gpu_memory_free_gb if device else None,
                models_loaded=self._engines.models_loaded(),
                queue_size=self._jobs.lanes.waiting,
                in_flight=self._jobs.in_flight,
                uptime_s=round(self._clock() - self._started_at, 3),
                dropped_progress=self._stdout.dropped_progress,
            )
        )
