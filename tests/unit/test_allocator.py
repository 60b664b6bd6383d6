"""Freed memory: kept for the next band, and returned when it is asked for."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from waiting import TIMEOUT_S


def printed(program: str) -> str:
    """What a Python program prints in a process of its own."""
    command = [sys.executable, "-c", program]
    return subprocess.check_output(command, text=True, timeout=TIMEOUT_S)


_KEEPS_AND_RETURNS = """
import psutil
from upscaled_models.allocator import keep_freed_memory, return_freed_memory

def resident():
    return psutil.Process().memory_info().rss

keep_freed_memory()
blocks = [b"1" * 20_000_000 for _ in range(5)]
full = resident()
del blocks
kept = resident()
return_freed_memory()
print(full - kept, kept - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_freed_memory_is_kept_until_it_is_returned() -> None:
    given_back_at_once, given_back_later = map(int, printed(_KEEPS_AND_RETURNS).split())
    assert given_back_at_once < 10_000_000
    assert given_back_later > 80_000_000


_REUSES = """
import resource
import psutil
from upscaled_models.allocator import keep_freed_memory, reusing_large_blocks

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = b"1" * 100_000_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
new_pages()
outside = new_pages()
with reusing_large_blocks():
    new_pages()
    inside = new_pages()
    kept = psutil.Process().memory_info().rss
print(outside, inside, kept - psutil.Process().memory_info().rss, new_pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_large_blocks_are_reused_inside_and_returned_afterwards() -> None:
    outside, inside, returned, later = map(int, printed(_REUSES).split())
    assert inside < 100 < outside
    assert returned > 80_000_000
    assert later > 100


_COUNTS_HEAPS = """
import ctypes
from threading import Barrier, Thread
from upscaled_models.allocator import keep_freed_memory

keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fdopen.restype = ctypes.c_void_p
together = Barrier(8)

def take():
    libc.malloc(1000)
    together.wait(60)

threads = [Thread(target=take) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_threads_share_two_heaps() -> None:
    assert 1 <= printed(_COUNTS_HEAPS).count("<heap ") <= 2
