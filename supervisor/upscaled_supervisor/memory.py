"""How much memory a worker uses, and when that is too much.

Growth counts, not size: the *baseline* is the memory in use once the models of the jobs are loaded.
psutil measures resident memory; NVML, if it is installed, measures a GPU's.
"""

from __future__ import annotations

from typing import Literal

from upscaled_protocol.log import Logger
from upscaled_supervisor.child import Child
from upscaled_supervisor.nvml import Nvml
from upscaled_supervisor.system import System

# From this share of the limit on, the worker is asked to free its caches.
_SOFT_SHARE = 0.8
# If the models alone pass the limit, this times the baseline is the limit instead.
_GROWTH_OVER_BASELINE = 1.5

Action = Literal["trim", "recycle"]
Kind = Literal["resident", "gpu"]


class Level:
    """One kind of memory of one worker, in MiB."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self.baseline = 0.0
        self._trimmed_at = 0.0

    @property
    def is_above_from_the_start(self) -> bool:
        """True if the models alone pass the limit."""
        return self.baseline > self._limit

    def judge(self, used: float) -> Action | None:
        """What to do at this use. `trim` is returned once per tenth of growth."""
        limit = self._limit
        if self.is_above_from_the_start:
            limit = self.baseline * _GROWTH_OVER_BASELINE
        if used > limit:
            return "recycle"
        if used > limit * _SOFT_SHARE and used > self._trimmed_at * 1.1:
            self._trimmed_at = used
            return "trim"
        return None


class Footprint:
    """One worker's memory, by the kinds that have a limit."""

    def __init__(self, limits: dict[Kind, float]) -> None:
        self.levels = {kind: Level(limit) for kind, limit in limits.items()}
        self.models: set[str] = set()


class MemoryWatch:
    """Measures the workers, and decides which to trim and which to replace."""

    def __init__(
        self, limit_mb: float | None, gpu_limit_mb: float | None, system: System, log: Logger
    ) -> None:
        limits: dict[Kind, float | None] = {"resident": limit_mb, "gpu": gpu_limit_mb}
        self._limits = {kind: limit for kind, limit in limits.items() if limit is not None}
        self._system = system
        self._log = log
        self._footprints: dict[int, Footprint] = {}
        self._warned: set[Kind] = set()
        self._nvml = Nvml(log, is_needed=gpu_limit_mb is not None)

    def handle_ready(self, child: Child) -> None:
        """Measure the baseline of a worker that is ready, with its preloaded models."""
        if self._limits:
            self._footprints[child.number] = Footprint(self._limits)
            self._measure_baseline(child)

    def handle_completed_job(self, child: Child, model: str) -> None:
        """Measure the baseline again after the first job of a model: now that model is loaded."""
        footprint = self._footprints.get(child.number)
        if footprint is not None and model not in footprint.models:
            footprint.models.add(model)
            self._measure_baseline(child)

    def _measure_baseline(self, child: Child) -> None:
        for kind, level in self._footprints[child.number].levels.items():
            level.baseline = self._used_mb(child, kind) or 0.0
            if level.is_above_from_the_start and kind not in self._warned:
                self._warned.add(kind)
                self._log.log(
                    "warning",
                    "memory_baseline_above_limit",
                    worker=child.slot,
                    memory=kind,
                    baseline_mb=round(level.baseline),
                    limit_mb=self._limits[kind],
                    detail="a worker uses more than the limit once its models are loaded; it is "
                    f"replaced when it has grown by {_GROWTH_OVER_BASELINE - 1:.0%}",
                )

    def baseline_mb(self, child: Child) -> float | None:
        """Resident memory with the models loaded; None if it is not measured."""
        footprint = self._footprints.get(child.number)
        level = footprint.levels.get("resident") if footprint else None
        return level.baseline if level else None

    def judge(self, child: Child) -> Action | None:
        """What to do about a worker."""
        footprint = self._footprints.get(child.number)
        if footprint is None:
            return None
        if any(job.model not in footprint.models for job in child.jobs.values()):
            return None  # it loads a model, which is no leak
        actions = [
            level.judge(used)
            for kind, level in footprint.levels.items()
            if (used := self._used_mb(child, kind)) is not None
        ]
        if "recycle" in actions:
            return "recycle"
        return "trim" if "trim" in actions else None

    def has_room_for_two(self, child: Child) -> bool:
        """True if a replacement fits beside a worker, in main memory and on its GPU."""
        if self._system.available_mb() < (child.resident_mb or 0.0):
            return False
        gpu = child.placement.gpu
        free = self._nvml.free_mb(gpu) if gpu is not None else None
        return free is None or free >= (self.gpu_mb(child) or 0.0)

    def gpu_mb(self, child: Child) -> float | None:
        """Memory of its GPU that a worker uses; None without NVML."""
        if child.placement.gpu is None or child.pid is None:
            return None
        return self._nvml.used_mb(child.placement.gpu, child.pid)

    def forget(self, child: Child) -> None:
        """Forget a worker that is gone."""
        self._footprints.pop(child.number, None)

    def _used_mb(self, child: Child, kind: Kind) -> float | None:
        return child.resident_mb if kind == "resident" else self.gpu_mb(child)
