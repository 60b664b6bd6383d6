"""How much memory a worker takes, and when that is too much.

Judged by growth, not from zero: the *baseline* is what it takes once the models that its jobs
need are loaded. psutil gives resident memory, NVML (where it is installed) a GPU's.
"""

from __future__ import annotations

from typing import Any, Literal

from upscaled_protocol.log import Logger
from upscaled_supervisor.child import Child

_MIB = 1024 * 1024
# Caches are asked back before the worker itself is.
_SOFT_SHARE = 0.8
# Where the models alone pass the limit, a leak is what comes on top of this.
_GROWTH_OVER_BASELINE = 1.5

Action = Literal["trim", "recycle"]


class Footprint:
    """What is known of one worker's memory, in MiB."""

    def __init__(self) -> None:
        self.baseline = 0.0
        self.models: set[str] = set()
        self.trimmed_at = 0.0


class MemoryWatch:
    """Measures workers, and says which to trim and which to replace."""

    def __init__(self, limit_mb: float | None, gpu_limit_mb: float | None, log: Logger) -> None:
        self._limit_mb = limit_mb
        self._gpu_limit_mb = gpu_limit_mb
        self._log = log
        self._footprints: dict[int, Footprint] = {}
        self._was_told = False
        self._nvml: Any = None

    def note_ready(self, child: Child) -> None:
        """A worker is ready: what it takes now, and with what it preloaded, is its baseline."""
        if self._limit_mb is not None:
            self._footprints[child.number] = Footprint()
            self._measure_baseline(child)

    def note_job(self, child: Child, model: str) -> None:
        """A job is done. The first of a model leaves a new baseline, with that model loaded."""
        footprint = self._footprints.get(child.number)
        if footprint is not None and model not in footprint.models:
            footprint.models.add(model)
            self._measure_baseline(child)

    def _measure_baseline(self, child: Child) -> None:
        baseline = rss_mb(child.pid) or 0.0
        self._footprints[child.number].baseline = baseline
        if self._limit_mb is not None and baseline > self._limit_mb and not self._was_told:
            self._was_told = True
            self._log.log(
                "warning",
                "memory_baseline_above_limit",
                worker=child.slot,
                baseline_mb=round(baseline),
                limit_mb=self._limit_mb,
                detail="with its models loaded a worker takes more than the limit from the start; "
                f"it is replaced when it has grown by {_GROWTH_OVER_BASELINE - 1:.0%} of that",
            )

    def baseline_mb(self, child: Child) -> float | None:
        """Resident memory with its models loaded; None where it is not measured."""
        footprint = self._footprints.get(child.number)
        return footprint.baseline if footprint else None

    def judge(self, child: Child) -> Action | None:
        """What to do about a worker now. `trim` is said once for each tenth that it grows."""
        if self._gpu_limit_mb is not None:
            used = self.gpu_mb(child)
            if used is not None and used > self._gpu_limit_mb:
                return "recycle"
        footprint = self._footprints.get(child.number)
        rss = rss_mb(child.pid)
        if self._limit_mb is None or footprint is None or rss is None:
            return None
        if any(job.model not in footprint.models for job in child.jobs.values()):
            return None  # a model is being loaded, which is no leak
        limit = self._limit_mb
        if footprint.baseline > limit:
            limit = footprint.baseline * _GROWTH_OVER_BASELINE
        if rss > limit:
            return "recycle"
        if rss > limit * _SOFT_SHARE and rss > footprint.trimmed_at * 1.1:
            footprint.trimmed_at = rss
            return "trim"
        return None

    def has_room_for_two(self, child: Child) -> bool:
        """Whether a replacement fits beside it, in main memory and on its GPU."""
        import psutil

        rss = (rss_mb(child.pid) or 0.0) if child.pid else 0.0
        if psutil.virtual_memory().available / _MIB < rss:
            return False
        device = self._gpu(child)
        used = self.gpu_mb(child)
        if device is None or not used:
            return True
        return bool(self._nvml.nvmlDeviceGetMemoryInfo(device).free / _MIB > used)

    def gpu_mb(self, child: Child) -> float | None:
        """What it takes of its GPU; None without NVML."""
        device = self._gpu(child)
        if device is None:
            return None
        for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(device):
            if process.pid == child.pid and process.usedGpuMemory is not None:
                return float(process.usedGpuMemory) / _MIB
        return 0.0

    def forget(self, child: Child) -> None:
        """It is gone."""
        self._footprints.pop(child.number, None)

    def _gpu(self, child: Child) -> Any:
        if child.placement.gpu_index is None:
            return None
        if self._nvml is None:
            self._nvml = _load_nvml(self._log)
        if self._nvml is False:
            return None
        return self._nvml.nvmlDeviceGetHandleByIndex(child.placement.gpu_index)


def rss_mb(pid: int | None) -> float | None:
    """Resident memory in MiB; None where the process is gone."""
    if pid is None:
        return None
    import psutil  # here, for it costs a start 20 ms

    try:
        return float(psutil.Process(pid).memory_info().rss) / _MIB
    except psutil.Error:
        return None


def _load_nvml(log: Logger) -> Any:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:  # noqa: BLE001 - no package, no driver, no GPU: all the same here
        log.log("info", "nvml_unavailable", detail=str(error))
        return False
    return pynvml
