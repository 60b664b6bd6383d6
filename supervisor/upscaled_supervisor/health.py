"""The answers to `health` and `trim`, for which the workers are asked first."""

from __future__ import annotations

from typing import Any, NamedTuple

from upscaled_supervisor.child import Child
from upscaled_supervisor.fleet import Fleet
from upscaled_supervisor.ledger import Ledger
from upscaled_supervisor.slots import Slot
from upscaled_supervisor.system import System


class _Request(NamedTuple):
    request_id: str | None
    trim: bool


class HealthRequests:
    """The requests that wait for the workers' own reports, and the report for the host."""

    def __init__(self, fleet: Fleet, ledger: Ledger, system: System) -> None:
        self._fleet = fleet
        self._ledger = ledger
        self._system = system
        self._started_at = system.now()
        self._requests: list[_Request] = []

    def ask(self, request_id: str | None, *, trim: bool = False) -> None:
        """Add a request of the host. trim: the workers free memory first."""
        self._requests.append(_Request(request_id, trim))
        for child in self._fleet.children.values():
            if trim:
                child.ask_trim()
            child.ask_health()

    def pop_answerable(self) -> list[str | None]:
        """The ids of the requests that can be answered now: every worker has reported or is late.

        A `trim` has no time limit, as long as its worker answers other requests.
        """
        if not self._requests:
            return []
        children = self._fleet.children.values()
        asking = any(child.health_asked_at and not child.is_late for child in children)
        trimming = any(child.trims_due and not child.is_unresponsive for child in children)
        requests, self._requests = self._requests, []
        answerable = []
        for request in requests:
            if asking or (request.trim and trimming):
                self._requests.append(request)
            else:
                answerable.append(request.request_id)
        return answerable

    @property
    def is_waiting(self) -> bool:
        """True if a request waits for a worker."""
        return bool(self._requests)

    def report(
        self,
        request_id: str | None,
        *,
        draining: bool,
        dropped_progress: int,
        missing: str | None = None,
    ) -> dict[str, Any]:
        """The message, as `HealthReport` defines it. missing: what the daemon still lacks."""
        state = self._fleet.state
        if missing is not None and state == "ok":
            state = "degraded"
        reports = [child.health for child in self._fleet.children.values() if child.health]
        gpus = [report for report in reports if report.get("gpu_available")]
        return {
            "type": "health",
            "request_id": request_id,
            "status": "draining" if draining else state,
            "detail": self._fleet.fault or missing,
            "gpu_available": bool(gpus) if reports else None,
            "gpu_name": gpus[0].get("gpu_name") if gpus else None,
            "gpu_memory_free": gpus[0].get("gpu_memory_free") if gpus else None,
            "models_loaded": sorted(
                {name for report in reports for name in report["models_loaded"]}
            ),
            "queue_size": len(self._ledger.queue),
            "in_flight": len(self._ledger.jobs),
            "uptime_s": round(self._system.now() - self._started_at, 3),
            "dropped_progress": dropped_progress,
            "workers": [self._row(slot) for slot in self._fleet.slots],
        }

    def _row(self, slot: Slot) -> dict[str, Any]:
        child = slot.child
        row: dict[str, Any] = {
            "worker": slot.number,
            "state": "stopped" if self._fleet.failure or slot.is_given_up else "backoff",
            "restarts": slot.restarts,
            "last_restart": slot.last_restart,
        }
        if child is None:
            return row
        memory = self._fleet.memory
        return row | {
            "state": _state(child),
            "pid": child.pid,
            "device": child.ready.get("device"),
            "jobs": list(child.jobs),
            "models_loaded": child.models_loaded,
            "rss_mb": _rounded(child.resident_mb),
            "baseline_rss_mb": _rounded(memory.baseline_mb(child)),
            "gpu_memory_used_mb": _rounded(memory.gpu_mb(child)),
            "jobs_done": child.jobs_done,
            "uptime_s": round(self._system.now() - child.spawned_at, 3),
        }


def _state(child: Child) -> str:
    if child.is_unresponsive:
        return "unresponsive"
    if child.state == "ready" and child.jobs:
        return "busy"
    return "draining" if child.state == "stopping" else child.state


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 1)
