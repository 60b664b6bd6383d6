"""From a crash to a worker that is ready again, beside a cold start of the same."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path
from statistics import median

from upscaled_bench.networks import save_rrdb
from upscaled_bench.pipes import RUN, Pipe, child
from upscaled_bench.table import print_table

_CRASHES = 5


def _worker_pid(pipe: Pipe) -> int:
    while True:
        pipe.write(b'{"type":"health"}\n')
        row = pipe.wait_for(lambda one: one["type"] == "health")["workers"][0]
        if row["state"] == "ready":
            return int(row["pid"])


def _measure(options: list[str]) -> tuple[float, float]:
    """Seconds from our own start to ready, and from a SIGKILL of the worker to ready."""
    start = time.perf_counter()
    with child([*RUN, *options]) as pipe:
        pipe.wait_ready()
        cold = time.perf_counter() - start
        recoveries = []
        for number in range(_CRASHES):
            # A job done, or the supervisor would take the worker for hopeless and wait longer.
            pipe.write(b'{"job_id":"%d","method":"fake","config":{"steps":0}}\n' % number)
            pipe.wait_result(str(number))
            pid = _worker_pid(pipe)
            killed = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            pipe.wait_for(lambda one: one.get("message") == "worker_restarted")
            recoveries.append(time.perf_counter() - killed)
    return cold, median(recoveries)


def main() -> None:
    """The real engine with torch, forked from the template and started afresh, also with a large
    network that is loaded before the worker is ready."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        rrdb = str(save_rrdb(Path(folder) / "rrdb.safetensors"))
        for name, options in (
            ("template (default)", ["--template"]),
            ("--no-template", ["--no-template"]),
            ("template, with RRDB loaded", ["--template", "--preload", rrdb]),
            ("--no-template, with RRDB loaded", ["--no-template", "--preload", rrdb]),
        ):
            cold, crash = _measure(["--methods", "esrgan,fake", *options])
            rows.append([name, f"{cold:.2f} s", f"{crash:.3f} s", f"{crash / cold:.3f}"])
    print_table(
        "the ESRGAN worker: cold start to ready, and kill -9 to ready again",
        ["", "cold start", "crash to ready", "ratio"],
        rows,
    )
