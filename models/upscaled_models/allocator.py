"""How glibc's allocator keeps and returns freed memory. With another C library nothing is set."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

# glibc's numbers for its settings (malloc.h), and the largest threshold that it allows for mmap.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -3, -4, -8
_MMAP_THRESHOLD_BYTES = 32 * 1024 * 1024
# How many blocks above it glibc takes from the system by themselves.
_MMAP_MAX = 65536
# Heaps that threads take memory from. Each keeps what was freed in it. glibc makes up to eight for
# each core, and each job has threads of its own: with WebP and AVIF the memory of a worker grew by
# half a gigabyte in 150 jobs.
_ARENAS = 2
# The memory of a few bands of a picture.
_KEPT_BYTES = 256 * 1024 * 1024
# As much as glibc can be asked to keep.
_MOST_BYTES = 2**31 - 1


def keep_freed_memory() -> None:
    """Reuse the memory of one band for the next. Call it before torch is imported.

    By default, glibc returns large blocks to the system at once, and the system clears each of
    their pages before it gives them out again: that took a fifth of a small network's time. Huge
    pages are cleared faster. `return_freed_memory` returns what is kept.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    _set_allocator(
        {
            _M_MMAP_THRESHOLD: _MMAP_THRESHOLD_BYTES,
            _M_TRIM_THRESHOLD: _KEPT_BYTES,
            _M_ARENA_MAX: _ARENAS,
        }
    )


@contextmanager
def reusing_large_blocks() -> Iterator[None]:
    """Inside, freed blocks of any size are reused, and returned to the system at the end.

    `keep_freed_memory` cannot ask for this: weights that are unloaded must be returned at once.
    """
    _set_allocator({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _MOST_BYTES})
    try:
        yield
    finally:
        _set_allocator({_M_MMAP_MAX: _MMAP_MAX, _M_TRIM_THRESHOLD: _KEPT_BYTES})
        return_freed_memory()


def _set_allocator(settings: Mapping[int, int]) -> None:
    with suppress(AttributeError, OSError, TypeError):  # another C library, another system
        libc = ctypes.CDLL(None)
        for name, value in settings.items():
            libc.mallopt(name, value)


def return_freed_memory() -> None:
    """Return freed memory to the system."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
