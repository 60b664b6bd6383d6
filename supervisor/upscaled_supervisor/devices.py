"""Which worker computes where."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from upscaled_supervisor.options import Options


@dataclass(frozen=True)
class Placement:
    """What a worker is told about its device."""

    argv: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    gpu_index: int | None = None  # NVML's own numbering

    @staticmethod
    def for_workers(options: Options) -> list[Placement]:
        """One a worker: the devices in turn, and a fair share of the cores each."""
        threads = max((os.cpu_count() or 1) // options.workers, 1)
        share = ["--threads", str(threads)] if options.workers > 1 else []
        devices = options.device or ["auto"]
        return [_place(devices[number % len(devices)], share) for number in range(options.workers)]


def _place(device: str, share: list[str]) -> Placement:
    """A worker sees one GPU alone, as cuda:0: nothing it does can land on another."""
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number:
        return Placement(argv=["--device", device, *share])
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    index = int(number)
    name = visible[index] if index < len(visible) else number
    return Placement(
        argv=["--device", "cuda:0", *share],
        env={"CUDA_VISIBLE_DEVICES": name},
        gpu_index=int(name) if name.isdigit() else index,
    )
