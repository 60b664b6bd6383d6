"""How many cores a process may use: by its affinity, and by the control groups of both versions."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from upscaled_imaging import cores
from upscaled_imaging.cores import allowed_cores, computing_threads, time_limit


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_a_process_limited_to_one_core_computes_with_one_thread() -> None:
    allowed = os.sched_getaffinity(0)
    assert 1 <= computing_threads() <= len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert computing_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def groups(proc: Path, version: int, **limits: str) -> Path:
    """A /proc whose process is in the group /pod/box, and the files of `pod`, `box` or the top."""
    tree = proc / "tree"
    (proc / "self").mkdir()
    controllers = "cpu,cpuacct" if version == 1 else ""
    kind = "cgroup" if version == 1 else "cgroup2"
    (proc / "self/cgroup").write_text(f"1:{controllers}:/pod/box\n")
    (proc / "self/mountinfo").write_text(
        f"31 30 0:6 / {tree} rw shared:9 - {kind} none rw,{controllers}\n"
    )
    for group, limit in limits.items():
        folder = tree / {"top": "", "pod": "pod", "box": "pod/box"}[group]
        folder.mkdir(parents=True, exist_ok=True)
        if version == 2:
            (folder / "cpu.max").write_text(f"{limit}\n")
        else:
            quota, period = limit.split()
            (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
            (folder / "cpu.cfs_period_us").write_text(f"{period}\n")
    return proc


@pytest.mark.parametrize(
    ("version", "limits", "allowed"),
    [
        (2, {"box": "150000 100000"}, 1.5),
        (2, {"box": "max 100000", "pod": "50000 100000"}, 0.5),
        (2, {"box": "400000 100000", "pod": "200000 100000"}, 2.0),
        (2, {"box": "max 100000"}, math.inf),
        (2, {}, math.inf),
        (1, {"box": "-1 100000", "pod": "300000 100000"}, 3.0),
        (1, {"box": "-1 100000"}, math.inf),
        (1, {}, math.inf),
    ],
)
def test_the_least_time_of_nested_groups_counts(
    tmp_path: Path, version: int, limits: dict[str, str], allowed: float
) -> None:
    assert time_limit(groups(tmp_path, version, **limits)) == allowed


@pytest.mark.parametrize(("limit", "allowed"), [(0.1, 1), (1.5, 2), (2.0, 2), (math.inf, 64)])
def test_a_part_of_a_core_counts_as_one(
    monkeypatch: pytest.MonkeyPatch, limit: float, allowed: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(64), raising=False)
    monkeypatch.setattr(cores, "time_limit", lambda: limit)
    assert allowed_cores() == allowed


def test_workers_that_share_the_cores_have_a_thread_each_at_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cores, "allowed_cores", lambda: 8)
    monkeypatch.setattr(cores, "_cores", lambda: 8)
    assert [computing_threads(sharers) for sharers in (1, 2, 3, 20)] == [8, 4, 2, 1]
