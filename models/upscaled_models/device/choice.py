"""Which device an engine computes on, and what is known about it."""

from __future__ import annotations

import os

import torch

from upscaled_models.engine import Device
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.memorygroup import available_bytes


def find_device(name: str) -> torch.device:
    """The device of that name; auto: a GPU if there is one.

    Raises `JobError` (internal) if it cannot be used.
    """
    if name == "auto":
        name = _best_device()
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        # The supervisor gives each worker its own GPU by this variable: then that is cuda:0.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        among = f" (CUDA_VISIBLE_DEVICES={visible})" if visible and "cuda" in name else ""
        raise JobError(
            ErrorCode.INTERNAL, f"the device {name}{among} cannot be used here: {error}"
        ) from error
    return device


def describe(device: torch.device) -> Device:
    """The device for `health` and `ready`, with the memory that is free on it now."""
    if device.type != "cuda":
        return Device(name=str(device))
    free, total = torch.cuda.mem_get_info(device)
    return Device(
        name=str(device),
        gpu_name=torch.cuda.get_device_name(device),
        gpu_memory_free_gb=free / 1e9,
        gpu_memory_used_mb=(total - free) / 1e6,
    )


def device_bytes(device: torch.device) -> int | None:
    """Memory of an accelerator; None for the processor."""
    if device.type != "cuda":
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


def free_bytes(device: torch.device) -> int:
    """Memory that a job can use on the device, or on the host if it computes there."""
    if device.type != "cuda":
        return available_bytes()
    # torch keeps freed memory for the next job.
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda:0"
    return "mps" if torch.backends.mps.is_available() else "cpu"
