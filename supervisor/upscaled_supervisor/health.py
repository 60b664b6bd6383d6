"""The answer to `health`: what is so now, not what was so once."""

from __future__ import annotations

import time
from typing import Any

from upscaled_supervisor.child import Child
from upscaled_supervisor.fleet import Fleet
from upscaled_supervisor.ledger import Ledger
from upscaled_supervisor.memory import rss_mb
from upscaled_supervisor.slots import Slot


class HealthDesk:
    """Asks the workers before it answers for them."""

    def __init__(self, fleet: Fleet, ledger: Ledger) -> None:
        self._fleet = fleet
        self._ledger = ledger
        self._started_at = time.monotonic()
        # One a request that has no answer yet: whether it is a `trim`.
        self._requests: list[bool] = []

    def ask(self, *, trim: bool = False) -> None:
        """The host wants to know; `trim`: once the workers have given memory back."""
        self._requests.append(trim)
        for child in self._fleet.children.values():
            if trim:
                child.ask_trim()
            child.ask_health()

    def answers_due(self) -> int:
        """How many requests can be answered: all workers have, or had their time. A `trim`
        takes as long as it takes, where its worker answers at all."""
        if not self._requests:
            return 0
        children = self._fleet.children.values()
        asking = any(child.health_asked_at and not child.is_late for child in children)
        trimming = any(child.trims_due and not child.is_unresponsive for child in children)
        left = [trim for trim in self._requests if asking or (trim and trimming)]
        due = len(self._requests) - len(left)
        self._requests = left
        return due

    @property
    def is_waiting(self) -> bool:
        """Whether a request waits for a worker."""
        return bool(self._requests)

    def report(self, *, draining: bool, dropped_progress: int) -> dict[str, Any]:
        """The message, as in `HealthReport`."""
        reports = [child.health for child in self._fleet.children.values() if child.health]
        gpus = [report for report in reports if report.get("gpu_available")]
        return {
            "type": "health",
            "status": "draining" if draining else self._fleet.state,
            "detail": self._fleet.failure,
            "gpu_available": bool(gpus) if reports else None,
            "gpu_name": gpus[0].get("gpu_name") if gpus else None,
            "gpu_memory_free": gpus[0].get("gpu_memory_free") if gpus else None,
            "models_loaded": sorted(
                {name for report in reports for name in report["models_loaded"]}
            ),
            "queue_size": len(self._ledger.queue),
            "in_flight": len(self._ledger.jobs),
            "uptime_s": round(time.monotonic() - self._started_at, 3),
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
            "rss_mb": _rounded(rss_mb(child.pid)),
            "baseline_rss_mb": _rounded(memory.baseline_mb(child)),
            "gpu_memory_used_mb": _rounded(memory.gpu_mb(child)),
            "jobs_done": child.jobs_done,
            "uptime_s": round(time.monotonic() - child.spawned_at, 3),
        }


def _state(child: Child) -> str:
    if child.is_unresponsive:
        return "unresponsive"
    if child.state == "ready" and child.jobs:
        return "busy"
    return "draining" if child.state == "stopping" else child.state


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 1)
