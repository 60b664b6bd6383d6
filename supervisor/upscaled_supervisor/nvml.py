"""A GPU's memory, from the driver's library NVML if it is installed."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from upscaled_protocol.log import Logger

_MIB = 1024 * 1024


class Nvml:
    """Every answer is None if there is no NVML, no such GPU, or no driver any longer."""

    def __init__(self, log: Logger, *, is_needed: bool) -> None:
        self._log = log
        self._is_needed = is_needed

    def used_mb(self, gpu: str, pid: int) -> float | None:
        """Memory of a GPU that a process uses. gpu: a number in NVML's order, or a UUID."""
        try:
            for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle(gpu)):
                if process.pid == pid and process.usedGpuMemory is not None:
                    return float(process.usedGpuMemory) / _MIB
        except Exception:  # noqa: BLE001 - whatever the driver raises
            return None
        return 0.0

    def free_mb(self, gpu: str) -> float | None:
        """Memory of a GPU that is free."""
        try:
            return float(self._nvml.nvmlDeviceGetMemoryInfo(self._handle(gpu)).free) / _MIB
        except Exception:  # noqa: BLE001 - whatever the driver raises
            return None

    def _handle(self, gpu: str) -> Any:
        if gpu.isdigit():
            return self._nvml.nvmlDeviceGetHandleByIndex(int(gpu))
        return self._nvml.nvmlDeviceGetHandleByUUID(gpu)

    @cached_property
    def _nvml(self) -> Any:
        try:
            import pynvml

            pynvml.nvmlInit()
        except Exception as error:  # noqa: BLE001 - no package, no driver, no GPU: all the same here
            if self._is_needed:
                text = f"the GPU memory limit cannot be kept: {error}"
                self._log.log("warning", "nvml_unavailable", detail=text)
            return None
        return pynvml
