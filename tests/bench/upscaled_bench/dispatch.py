"""The cost of supervision per job: round trips and throughput, compared with a raw pipe echo."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from upscaled_bench.pipes import BY_HAND, ECHO, RELAY, RUN, WORKER, Pipe, child
from upscaled_bench.table import print_table

_ROUNDS = 10
_TRIPS = 300
_PIPELINED = 5000
_WINDOW = 64


def _job(number: int) -> bytes:
    return b'{"job_id":"%d","method":"fake","config":{"steps":0}}\n' % number


def _is_end(line: bytes) -> bool:
    return b'"result"' in line


def _trips(pipe: Pipe, first: int, *, echo: bool) -> list[float]:
    times = []
    for number in range(first, first + _TRIPS):
        line = _job(number)
        start = time.perf_counter()
        pipe.write(line)
        while not (_is_end(pipe.read_line()) or echo):
            pass
        times.append(time.perf_counter() - start)
    return times


def _throughput(pipe: Pipe, first: int, *, echo: bool) -> float:
    """Jobs per second with a window of jobs in flight."""
    start = time.perf_counter()
    pipe.write(b"".join(_job(number) for number in range(first, first + _WINDOW)))
    sent = _WINDOW
    for _ in range(_PIPELINED):
        while not (_is_end(pipe.read_line()) or echo):
            pass
        if sent < _PIPELINED:
            pipe.write(_job(first + sent))
            sent += 1
    return _PIPELINED / (time.perf_counter() - start)


def main() -> None:
    """Measure in turns, so that the machine's mood is the same for all."""
    fake = ["--methods", "fake"]
    with (
        tempfile.TemporaryDirectory() as folder,
        child(["-c", ECHO]) as echo,
        child(["-c", RELAY]) as relay,
        child(["-c", BY_HAND]) as by_hand,
        child([*WORKER, *fake]) as bare,
        child([*RUN, *fake]) as run,
        child([*RUN, *fake, "--journal", str(Path(folder) / "jobs.db")]) as journalled,
    ):
        echoes = {"raw pipe echo": echo, "echo behind a relay": relay}
        jobs = {
            "three lines by hand": by_hand,
            "bare worker": bare,
            "supervised": run,
            "... with a journal": journalled,
        }
        subjects = echoes | jobs
        bare.wait_ready()
        run.wait_ready()
        journalled.wait_ready()
        trips: dict[str, list[float]] = {name: [] for name in subjects}
        rates: dict[str, list[float]] = {name: [] for name in subjects}
        for number in range(_ROUNDS):
            for name, pipe in subjects.items():
                times = _trips(pipe, number * _TRIPS, echo=name in echoes)
                if number:  # the first round warms up
                    trips[name] += times
        for number in range(3):
            for name, pipe in subjects.items():
                rate = _throughput(pipe, 100_000 * (number + 1), echo=name in echoes)
                rates[name].append(rate)
    base = trips["raw pipe echo"]
    base_rate = max(rates["raw pipe echo"])
    rows = []
    for name, times in trips.items():
        p99, base_p99 = quantiles(times, n=100)[98], quantiles(base, n=100)[98]
        rows.append(
            [
                name,
                f"{median(times) * 1e6:.0f} us",
                f"{median(times) / median(base):.1f}x",
                f"{p99 * 1e6:.0f} us",
                f"{p99 / base_p99:.1f}x",
                f"{max(rates[name]):,.0f}/s",
                f"1/{base_rate / max(rates[name]):.1f}",
            ]
        )
    print_table(
        "no-op jobs: round trip, and throughput with 64 in flight",
        ["", "p50", "of echo", "p99", "of echo", "jobs", "of echo"],
        rows,
    )
