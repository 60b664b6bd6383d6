"""Upscale pictures from Python.

    import upscaled

    with upscaled.Upscaler() as up:
        result = up.upscale("in.jpg", "out.png", factor=2)
        print(result.output_size)

`AsyncUpscaler` is the same for asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from upscaled.errors import (
    DaemonGoneError,
    DeadlineExceededError,
    ForkedError,
    InputError,
    InternalError,
    InvalidJobError,
    JobCancelledError,
    JournalError,
    ModelError,
    NoAnswerError,
    NotAllowedError,
    OutOfMemoryError,
    OutputError,
    QueueFullError,
    ShuttingDownError,
    StorageError,
    UpscaledError,
    UpstreamError,
    WorkerError,
)
from upscaled_protocol import version

if TYPE_CHECKING:
    from upscaled.aio import AsyncCall, AsyncUpscaler
    from upscaled.call import Call
    from upscaled.protocol import HealthReport, Progress, Size, Status
    from upscaled.request import CallOptions
    from upscaled.result import Result
    from upscaled.upscaler import Upscaler, UpscalerOptions

__version__ = version.VERSION

# Imported when they are asked for: asyncio takes a while, and some programs use none of it.
_LAZY = {
    "AsyncCall": "aio",
    "AsyncUpscaler": "aio",
    "Call": "call",
    "CallOptions": "request",
    "HealthReport": "protocol",
    "Progress": "protocol",
    "Result": "result",
    "Size": "protocol",
    "Status": "protocol",
    "Upscaler": "upscaler",
    "UpscalerOptions": "upscaler",
}

__all__ = [
    "AsyncCall",
    "AsyncUpscaler",
    "Call",
    "CallOptions",
    "DaemonGoneError",
    "DeadlineExceededError",
    "ForkedError",
    "HealthReport",
    "InputError",
    "InternalError",
    "InvalidJobError",
    "JobCancelledError",
    "JournalError",
    "ModelError",
    "NoAnswerError",
    "NotAllowedError",
    "OutOfMemoryError",
    "OutputError",
    "Progress",
    "QueueFullError",
    "Result",
    "ShuttingDownError",
    "Size",
    "Status",
    "StorageError",
    "UpscaledError",
    "Upscaler",
    "UpscalerOptions",
    "UpstreamError",
    "WorkerError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'upscaled' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"upscaled.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
