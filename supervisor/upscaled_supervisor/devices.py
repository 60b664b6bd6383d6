"""Which worker computes on which device."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Placement:
    """The options and the environment that give a worker its device."""

    argv: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    gpu: str | None = None  # as NVML names it: a number in its order, or a UUID


_KINDS = ("auto", "cpu", "cuda", "mps")


def place_workers(count: int, devices: list[str]) -> list[Placement]:
    """One placement per worker: the devices in turn, and a fair share of the cores."""
    share = ["--sharers", str(count)] if count > 1 else []
    devices = devices or ["auto"]
    return [_place(devices[number % len(devices)], share) for number in range(count)]


def _place(device: str, share: list[str]) -> Placement:
    """A worker sees only its own GPU, as cuda:0, so that it can use no other."""
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
    """Parse the value of `--device`. Raises `argparse.ArgumentTypeError`."""
    devices = text.split(",")
    for device in devices:
        kind, colon, number = device.partition(":")
        if kind not in _KINDS or (colon and not number.isdecimal()):
            raise argparse.ArgumentTypeError(
                f"{device!r} is no device; write auto, cpu, cuda, cuda:0 or mps"
            )
        visible = _visible_gpus()
        if kind == "cuda" and visible and int(number or 0) >= len(visible):
            raise argparse.ArgumentTypeError(
                f"there is no {device}: CUDA_VISIBLE_DEVICES shows only {len(visible)} GPUs"
            )
    return devices


def _visible_gpus() -> list[str]:
    """The GPUs in CUDA_VISIBLE_DEVICES, in its order; empty if it is not set."""
    return [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
