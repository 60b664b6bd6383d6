"""Benchmarks within a given time: which runs are left out, and what is kept."""

from __future__ import annotations

from pathlib import Path

import orjson

from upscaled_bench.timebudget import Report, TimeBudget, measured


def test_without_time_the_first_run_is_the_result() -> None:
    runs: list[int] = []
    times = measured(lambda: runs.append(1), TimeBudget(0))
    assert len(runs) == 1
    assert times.rounds == 0
    assert times.least_s == times.first_s


def test_with_time_the_first_run_only_warms_up() -> None:
    runs: list[int] = []
    times = measured(lambda: runs.append(1), TimeBudget(60), rounds=3)
    assert len(runs) == 4
    assert times.rounds == 3


def test_a_part_ends_no_later_than_the_whole() -> None:
    assert TimeBudget(10).part(60).left_s <= 10
    assert TimeBudget(60).part(10).left_s <= 10


def test_each_result_is_in_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    report = Report(path)
    report.keep("about", {"cores": 2})
    report.add("networks", {"name": "a"})
    report.add("networks", {"name": "b"})
    assert orjson.loads(path.read_bytes()) == {
        "about": {"cores": 2},
        "networks": [{"name": "a"}, {"name": "b"}],
    }
