"""The answer to `health`: what is so now, not what was so once."""

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


class HealthDesk:
    """Asks the workers before it answers for them."""

    def __init__(self, fleet: Fleet, ledger: Ledger, system: System) -> None:
        self._fleet = fleet
        self._ledger = ledger
        self._system = system
        self._started_at = system.now()
        self._requests: list[_Request] = []  # those that have no answer yet

    def ask(self, request_id: str | None, *, trim: bool = False) -> None:
        """The host wants to know; `trim`: once the workers have given memory back."""
        self._requests.append(_Request(request_id, trim))
        for child in self._fleet.children.values():
            if trim:
                child.ask_trim()
            child.ask_health()

    def answers_due(self) -> list[str | None]:
        """The ids of the requests that can be answered now, because every worker has answered or
        is late. A `trim` takes as long as it takes, if its worker answers at all."""
        if not self._requests:
            return []
        children = self._fleet.children.values()
        asking = any(child.health_asked_at and not child.is_late for child in children)
        trimming = any(child.trims_due and not child.is_unresponsive for child in children)
        requests, self._requests = self._requests, []
        due = []
        for request in requests:
            if asking or (request.trim and trimming):
                self._requests.append(request)
            else:
                due.append(request.request_id)
        return due

    @property
    def is_waiting(self) -> bool:
        """Whether a request waits for a worker."""
        return bool(self._requests)

    def report(
        self,
        request_id: str | None,
        *,
        draining: bool,
        dropped_progress: int,
        missing: str | None = None,
    ) -> dict[str, Any]:
        """The message, as in `HealthReport`. missing: what the daemon has to do without for now."""
        state = self._fleet.state
        if missing is not None and state == "ok":
            state = "degraded"
        reports = [child.health for child in self._fleet.children.values() if child.health]
        gpus = [report for report in reports if report.get("gpu_available")]
        return {
            "type": "health",
            "request_id": request_id,
            "status": "draining" if draining else state,
            "detail": self._fleet.failure or missing,
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
            "state": "stopped" if self._fleet.failure or slot.is_hopeless else "backoff",
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
