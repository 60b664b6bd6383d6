"""A machine out of memory: the kernel kills a worker, and the daemon knows who did it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

TIMEOUT_S = 100.0
LIMIT_BYTES = 250 * 1024 * 1024
CGROUPS = Path("/sys/fs/cgroup")
# Both versions of the kernel's interface: where a group goes, its limit, and what keeps it from
# swapping instead.
LIMITS = {
    CGROUPS / "memory": ("memory.limit_in_bytes", "memory.swappiness"),
    CGROUPS: ("memory.max", "memory.swap.max"),
}


@pytest.fixture
def small_machine() -> Iterator[Path]:
    """A memory cgroup of 250 MB, empty."""
    for parent, (limit, swap) in LIMITS.items():
        group = parent / f"upscaled-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(LIMIT_BYTES))
            if (group / swap).exists():
                (group / swap).write_text("0")
        except OSError:
            continue
        else:
            yield group
            return
        finally:
            group.rmdir()
    pytest.skip("a memory cgroup can only be made by root, on Linux")


def test_a_kill_by_the_kernel_for_lack_of_memory_is_named(small_machine: Path) -> None:
    jobs = [
        {"job_id": "greedy", "method": "fake", "config": {"steps": 1, "grow_mb": 600}},
        {"job_id": "modest", "method": "fake", "config": {"steps": 1}},
        {"job_id": "once", "method": "fake", "config": {"steps": 1, "grow_mb": 600}}
        | {"max_attempts": 1},
    ]
    enter = f"echo $$ > {small_machine}/cgroup.procs; exec {sys.executable} -m upscaled_supervisor"
    done = subprocess.run(
        ["sh", "-c", f"{enter} --methods fake"],
        input=b"\n".join(orjson.dumps(job) for job in jobs),
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    lines = [orjson.loads(line) for line in done.stdout.splitlines()]
    ends = {line["job_id"]: line for line in lines if line["type"] in ("result", "error")}
    assert ends["modest"]["type"] == "result"
    assert (ends["greedy"]["code"], ends["once"]["code"]) == ("poisoned", "out_of_memory")
    assert ends["greedy"]["cause"] == {"reason": "oom_kill", "signal": "SIGKILL"}
    restarts = [line["cause"]["reason"] for line in lines if line.get("cause")]
    assert set(restarts) == {"oom_kill"}
