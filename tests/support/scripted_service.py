"""A service of the sidecar whose state a test sets."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric

from upscaled_http.messages import Health, Limits
from upscaled_protocol.messages import HealthStatus, WorkerHealth


class ScriptedService:
    """As much of the service as the application itself asks."""

    def __init__(self) -> None:
        self.status: HealthStatus = "ok"
        self.is_draining = False
        self.is_queue_full = False
        self.is_disk_full = False
        self.is_live = True
        self.is_ready = True
        self.fault: str | None = None
        self.idle_s = 0.0
        self.calls: list[str] = []

    async def start(self) -> None:
        self.calls.append("start")

    async def drain(self) -> None:
        self.calls.append("drain")

    async def stop(self) -> None:
        self.calls.append("stop")

    def reload(self) -> None:
        self.calls.append("reload")

    async def measure(self) -> None:
        self.calls.append("measure")

    def collect(self) -> Iterator[Metric]:
        return iter(())

    async def health(self) -> Health:
        return Health(
            status=self.status,
            version="1",
            uptime_s=1,
            queue_size=0,
            in_flight=0,
            limits=Limits(
                max_request_mb=1,
                max_input_megapixels=1,
                max_output_megapixels=1,
                max_queue=1,
                rate_per_minute=0,
                max_wait_s=1,
                job_timeout_s=1,
            ),
            workers=[WorkerHealth(worker=0, state="ready")],
        )
