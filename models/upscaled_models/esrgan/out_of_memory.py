"""What counts as running out of memory, and nothing else."""

from __future__ import annotations

import gc

import torch

from upscaled_models.memory import return_freed_memory

# What torch's CPU allocator says; it has no exception of its own for it.
_CPU_ALLOCATOR = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough")
# How Apple's GPUs say it, without an exception of their own too.
_MPS = "MPS backend out of memory"
# All that oneDNN says of an operation that it knows how to do, and then has no memory for.
_ONEDNN = "could not create a primitive"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or on the host."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        text == _ONEDNN or text.startswith(_MPS) or any(said in text for said in _CPU_ALLOCATOR)
    )


def free_caches() -> None:
    """Give memory back that torch and Python hold without using it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    return_freed_memory()
