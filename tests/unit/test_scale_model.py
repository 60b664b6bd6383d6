"""The fleet on paper obeys what any fleet must: the numbers of docs/scale.md rest on it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scale_model import Load, simulate

LOAD = Load(jobs_per_day=2000, job_s=60.0)


def test_every_job_of_the_day_is_done() -> None:
    day = simulate(LOAD)
    assert 1800 < len(day.waits_s) < 2200
    assert min(day.waits_s) >= 0


def test_machines_are_paid_for_at_least_the_time_of_the_jobs() -> None:
    day = simulate(LOAD)
    assert day.machine_s >= len(day.waits_s) * LOAD.job_s
    assert day.computed_twice_s == day.kills == 0


def test_the_same_seed_gives_the_same_day() -> None:
    assert simulate(LOAD, seed=3) == simulate(LOAD, seed=3)
    assert simulate(LOAD, seed=3) != simulate(LOAD, seed=4)


def test_kills_lose_no_job_and_cost_what_was_computed_until_then() -> None:
    killed = simulate(replace(LOAD, kills_per_hour=2.0))
    assert len(killed.waits_s) == len(simulate(LOAD).waits_s)
    assert killed.kills > 50
    # Memoryless kills cost a job of length T at a rate r about r * T / 2 of itself.
    share = killed.computed_twice_s / (len(killed.waits_s) * LOAD.job_s)
    assert share == pytest.approx(2.0 * 60 / 3600 / 2, rel=0.5)


def test_a_long_lease_keeps_the_jobs_of_killed_machines_waiting() -> None:
    load = replace(LOAD, kills_per_hour=2.0)
    short = simulate(replace(load, lease_s=60.0))
    long = simulate(replace(load, lease_s=3600.0))
    assert max(long.waits_s) > 3600 * 3 / 4 > max(short.waits_s)


def test_a_quota_bounds_the_machines_and_lengthens_the_waits() -> None:
    bounded = simulate(replace(LOAD, max_machines=2))
    assert bounded.peak_machines == 2
    assert bounded.wait_s(0.99) > simulate(LOAD).wait_s(0.99)


def test_a_large_day_is_a_small_one_many_times(monkeypatch: pytest.MonkeyPatch) -> None:
    small = simulate(LOAD)
    monkeypatch.setattr("scale_model._SIMULATED_JOBS", LOAD.jobs_per_day)
    large = simulate(replace(LOAD, jobs_per_day=3 * LOAD.jobs_per_day))
    assert large.machine_s == pytest.approx(3 * small.machine_s)
    assert large.peak_machines == 3 * small.peak_machines
