"""Which errors mean that memory ran out, and how memory is freed then."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from upscaled_models.allocator import return_freed_memory
from upscaled_protocol.errors import ErrorCode, JobError

# Messages of torch's CPU allocator, which has no exception of its own for it.
_CPU_ALLOCATOR = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough")
# The message for Apple's GPUs, which have no exception of their own either.
_MPS = "MPS backend out of memory"
# Parts of messages of CUDA's libraries, which allocate memory beside torch. These errors are no
# `torch.OutOfMemoryError`.
_CUDA_LIBRARIES = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
)
# oneDNN's whole message if it has no memory for an operation that it supports.
_ONEDNN = "could not create a primitive"


def is_out_of_memory(error: BaseException) -> bool:
    """True if memory ran out, on the device or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        text == _ONEDNN
        or text.startswith(_MPS)
        or any(part in text for part in (*_CPU_ALLOCATOR, *_CUDA_LIBRARIES))
    )


@contextmanager
def as_job_error() -> Iterator[None]:
    """Raise `JobError` (out_of_memory) if memory runs out in the context."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise JobError(
            ErrorCode.OUT_OF_MEMORY,
            "memory ran out: free some, or use smaller files or a device with more",
        ) from error


def free_caches() -> None:
    """Give back memory that torch and Python hold without using it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    return_freed_memory()
