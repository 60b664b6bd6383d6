"""Which worker computes where."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upscaled_supervisor.options import Options


@dataclass(frozen=True)
class Placement:
    """What a worker is told about its device."""

    argv: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    gpu: str | None = None  # as NVML knows it: a number in its order, or an UUID

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
    if kind == "cpu":
        return Placement(argv=["--device", device, *share])
    visible = _visible_gpus()
    index = int(number or 0)
    name = visible[index] if index < len(visible) else str(index)
    if not number:
        return Placement(argv=["--device", device, *share], gpu=name)
    return Placement(
        argv=["--device", "cuda:0", *share], env={"CUDA_VISIBLE_DEVICES": name}, gpu=name
    )


def read_devices(text: str) -> list[str]:
    """A list as `--device` takes it. Raises `argparse.ArgumentTypeError`."""
    devices = text.split(",")
    for device in devices:
        kind, colon, number = device.partition(":")
        if not kind or (colon and not number.isdecimal()):
            raise argparse.ArgumentTypeError(
                f"{device!r} is no device; write cpu, cuda, cuda:0 or mps"
            )
        visible = _visible_gpus()
        if kind == "cuda" and visible and int(number or 0) >= len(visible):
            raise argparse.ArgumentTypeError(
                f"there is no {device}, for CUDA_VISIBLE_DEVICES shows {len(visible)} of them only"
            )
    return devices


def _visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES leaves to us, in its order; empty where it does not say."""
    return [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
