#!/usr/bin/env python3
"""A day of a fleet on paper: machines, waiting times, cost per picture, and work computed twice.

Simulates one day of jobs that arrive at random, at a rate that swings around its mean as a sine
does. Machines are launched and leave as `upscaled work --idle-exit-s` and an autoscaler that reads
`upscaled queue depth` do it. Each machine takes one job at a time and may be killed at any moment;
its job then starts from the beginning on another machine, once the lease has run out.

Assumptions, besides the options: every job takes the same time, with its transfers; the queue costs
no time; a launch never fails and is paid from its first second; machines are killed independently
of each other. Days of more than 200,000 jobs are simulated with one of every N jobs and machines,
and counted N times: waits then come out a little too long.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

_DAY_S = 86_400.0
_SIMULATED_JOBS = 200_000
# No-op jobs per second of one worker process on Celery and Redis, on half of a busy two-core
# machine. `upscaled bench queue` measures it.
_BROKER_JOBS_PER_S = 300.0


@dataclass(frozen=True)
class Load:
    """What is asked of the fleet, and what its machines are like. Times in seconds."""

    jobs_per_day: float
    job_s: float
    price_per_hour: float = 0.75
    kills_per_hour: float = 0.0
    lease_s: float = 60.0
    launch_s: float = 120.0
    idle_exit_s: float = 300.0
    poll_s: float = 15.0
    # The autoscaler launches what would empty the queue in this time.
    target_wait_s: float = 60.0
    # The peak's rate is the mean's times (1 + swing).
    swing: float = 0.64
    max_machines: int | None = None
    output_mb: float = 15.0

    @property
    def mean_jobs_per_s(self) -> float:
        return self.jobs_per_day / _DAY_S

    @property
    def peak_jobs_per_s(self) -> float:
        return self.mean_jobs_per_s * (1 + self.swing)


@dataclass
class Day:
    """What came of it. Waits: from a job's arrival to the start of the run that completed it."""

    waits_s: list[float] = field(default_factory=list)
    peak_machines: int = 0
    machine_s: float = 0.0
    computed_twice_s: float = 0.0
    kills: int = 0

    def wait_s(self, share: float) -> float:
        """The wait that this share of the jobs does not pass, 0 to 1."""
        ordered = sorted(self.waits_s)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


@dataclass
class _Machine:
    since: float
    busy_until: float = math.inf
    started: float = 0.0
    arrival: float | None = None  # of its job
    idle_since: float = 0.0
    is_gone: bool = False


class _Fleet:
    """The machines and the queue, driven by events in the order of their times."""

    def __init__(self, load: Load, seed: int) -> None:
        self._load = load
        self._random = random.Random(seed)
        self.day = Day()
        self._events: list[tuple[float, int, str, _Machine | None, float]] = []
        self._order = 0
        self._waiting: deque[float] = deque()  # arrivals
        self._idle: list[_Machine] = []
        self._alive = 0
        self._launching = 0
        self._running = 0
        self._away = 0  # jobs of killed machines, until their leases run out
        self._jobs_left = 0

    def run(self) -> Day:
        arrivals = list(self._arrivals())
        self._jobs_left = len(arrivals)
        for at in arrivals:
            self._at(at, "arrive")
        self._at(0.0, "poll")
        while self._jobs_left or self._alive or self._launching:
            now, _, kind, machine, arrival = heapq.heappop(self._events)
            getattr(self, f"_{kind}")(now, machine, arrival)
        return self.day

    def _arrivals(self) -> Iterator[float]:
        load = self._load
        peak = load.peak_jobs_per_s
        at = 0.0
        while True:  # thinning: Lewis and Shedler, 1979
            at += self._random.expovariate(peak)
            if at >= _DAY_S:
                return
            rate = load.mean_jobs_per_s * (1 - load.swing * math.cos(2 * math.pi * at / _DAY_S))
            if self._random.random() * peak < rate:
                yield at

    def _at(
        self, time_s: float, kind: str, machine: _Machine | None = None, arrival: float = 0.0
    ) -> None:
        self._order += 1
        heapq.heappush(self._events, (time_s, self._order, kind, machine, arrival))

    # --- jobs -------------------------------------------------------------------------------

    def _arrive(self, now: float, _machine: _Machine | None, _arrival: float) -> None:
        self._waiting.append(now)
        self._start_jobs(now)

    def _return(self, now: float, _machine: _Machine | None, arrival: float) -> None:
        """The lease of a killed machine's job has run out."""
        self._away -= 1
        self._waiting.appendleft(arrival)
        self._start_jobs(now)

    def _start_jobs(self, now: float) -> None:
        while self._waiting and self._idle:
            machine = self._idle.pop()
            if machine.is_gone:
                continue
            machine.arrival, machine.started = self._waiting.popleft(), now
            machine.busy_until = now + self._load.job_s
            self._running += 1
            self._at(machine.busy_until, "finish", machine)

    def _finish(self, now: float, machine: _Machine | None, _arrival: float) -> None:
        if machine is None or machine.is_gone or machine.arrival is None:
            return
        self.day.waits_s.append(machine.started - machine.arrival)
        self._jobs_left -= 1
        self._running -= 1
        self._rest(now, machine)
        self._start_jobs(now)

    # --- machines ---------------------------------------------------------------------------

    def _poll(self, now: float, _machine: _Machine | None, _arrival: float) -> None:
        """The autoscaler: the machines that run a job, and those that would empty the queue."""
        load = self._load
        due = len(self._waiting) + self._away
        empty = due * load.job_s / max(load.target_wait_s, load.job_s)
        wanted = self._running + math.ceil(empty)
        if load.max_machines is not None:
            wanted = min(wanted, load.max_machines)
        for _ in range(wanted - self._alive - self._launching):
            self._launching += 1
            self._at(now + load.launch_s, "ready", _Machine(since=now))
        if self._jobs_left:
            self._at(now + load.poll_s, "poll")

    def _ready(self, now: float, machine: _Machine | None, _arrival: float) -> None:
        assert machine is not None
        self._launching -= 1
        self._alive += 1
        self.day.peak_machines = max(self.day.peak_machines, self._alive)
        if self._load.kills_per_hour:
            life_s = self._random.expovariate(self._load.kills_per_hour / 3600)
            self._at(now + life_s, "kill", machine)
        self._rest(now, machine)
        self._start_jobs(now)

    def _rest(self, now: float, machine: _Machine) -> None:
        machine.arrival, machine.idle_since = None, now
        self._idle.append(machine)
        self._at(now + self._load.idle_exit_s, "leave", machine)

    def _leave(self, now: float, machine: _Machine | None, _arrival: float) -> None:
        assert machine is not None
        has_worked_since = machine.idle_since + self._load.idle_exit_s > now
        if machine.is_gone or machine.arrival is not None or has_worked_since:
            return
        self._remove(now, machine)

    def _kill(self, now: float, machine: _Machine | None, _arrival: float) -> None:
        assert machine is not None
        if machine.is_gone:
            return
        self.day.kills += 1
        self._remove(now, machine)
        if machine.arrival is not None:
            self.day.computed_twice_s += now - machine.started
            self._running -= 1
            self._away += 1
            # Renewed at some moment of its last quarter of a lease.
            left_s = self._load.lease_s * (1 - self._random.random() / 4)
            self._at(now + left_s, "return", None, machine.arrival)

    def _remove(self, now: float, machine: _Machine) -> None:
        machine.is_gone = True
        self._alive -= 1
        self.day.machine_s += now - machine.since


def simulate(load: Load, seed: int = 1) -> Day:
    """One day of that load, to the end of its last job and machine."""
    factor = max(math.ceil(load.jobs_per_day / _SIMULATED_JOBS), 1)
    most = load.max_machines
    small = replace(
        load,
        jobs_per_day=load.jobs_per_day / factor,
        max_machines=None if most is None else max(most // factor, 1),
    )
    day = _Fleet(small, seed).run()
    day.peak_machines *= factor
    day.machine_s *= factor
    day.computed_twice_s *= factor
    day.kills *= factor
    return day


def row(load: Load, day: Day) -> list[str]:
    """The cells of one load's row."""
    busy_s = load.jobs_per_day * load.job_s
    cost = day.machine_s / 3600 * load.price_per_hour / load.jobs_per_day
    return [
        f"{load.jobs_per_day:,.0f}",
        f"{load.job_s:g}",
        f"{load.peak_jobs_per_s:.2f}",
        f"{day.peak_machines:,}",
        f"{100 * busy_s / day.machine_s:.0f} %" if day.machine_s else "-",
        f"{day.wait_s(0.5):.1f}",
        f"{day.wait_s(0.99):.0f}",
        f"{max(day.waits_s, default=0.0):.0f}",
        f"{cost:.5f}",
        f"{100 * day.computed_twice_s / busy_s:.2f} %",
        f"{100 * load.peak_jobs_per_s / _BROKER_JOBS_PER_S:.1f} %",
        f"{load.jobs_per_day * load.output_mb / 1e6:,.2f}",
    ]


_HEADER = (
    "jobs per day",
    "job s",
    "peak jobs/s",
    "machines at peak",
    "busy",
    "wait p50 s",
    "p99 s",
    "longest s",
    "cost per picture",
    "computed twice",
    "of one broker",
    "outputs TB per day",
)

# The table of docs/scale.md: a fast network, a large one, and FLUX; a machine of one's own, and one
# that may be taken away.
_TABLE = [
    Load(jobs, job_s, price, kills)
    for job_s, most in ((1.0, 1e7), (6.0, 1e7), (1200.0, 1e5))
    for jobs in (1e4, 1e5, 1e6, 1e7)
    if jobs <= most
    for price, kills in ((0.75, 0.0), (0.5, 1.0))
]


def main() -> int:
    """Print the table of the options' load, or of docs/scale.md."""
    arguments = argparse.ArgumentParser(
        description=__doc__,
        epilog="examples:\n  python tests/bench/scale_model.py --jobs-per-day 1e6 --job-s 6\n"
        "  python tests/bench/scale_model.py --jobs-per-day 1e4 --job-s 1200 --kills-per-hour 0.2"
        " --lease-s 3600\n  python tests/bench/scale_model.py --table",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = arguments.add_argument
    add("--table", action="store_true", help="the loads of docs/scale.md")
    add("--jobs-per-day", type=float, default=1e6, help="default: 1e6")
    add("--job-s", type=float, default=6.0, help="of one picture, on one machine (default: 6)")
    add("--price-per-hour", type=float, default=0.75, help="of one machine (default: 0.75)")
    add("--kills-per-hour", type=float, default=0.0, help="per machine (default: 0)")
    add("--lease-s", type=float, default=60.0, help="`upscaled work --lease-s` (default: 60)")
    add("--launch-s", type=float, default=120.0, help="boot, image, models (default: 120)")
    add("--idle-exit-s", type=float, default=300.0, help="default: 300")
    add("--max-machines", type=int, help="the quota (default: none)")
    add("--swing", type=float, default=0.64, help="peak over mean, less 1 (default: 0.64)")
    options = arguments.parse_args()
    fields = {name: value for name, value in vars(options).items() if name != "table"}
    loads = _TABLE if options.table else [Load(**fields)]
    print("| " + " | ".join(_HEADER) + " |\n|" + "---|" * len(_HEADER))
    for load in loads:
        print("| " + " | ".join(row(load, simulate(load))) + " |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
