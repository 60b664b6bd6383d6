"""Machines on a queue, on a Redis of their own: what a queue costs a job, beside a PING; no-op jobs
per second; four machines beside one; and how long the device waits between two queued jobs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

from upscaled_bench.table import print_table
from upscaled_queue.producer import Producer
from upscaled_queue.queueurl import read_queue_url
from upscaled_queue.record import Records, connect
from upscaled_queue.settings import Settings

ENGINES = {"Celery on Redis": "redis", "BullMQ": "bullmq"}
_OUTBOX = "upscaled:outbox"
_PINGS = 300
_SINGLE_JOBS = 60
_NO_OPS = 400
_JOBS_PER_MACHINE = 8
_MACHINES = 4
_WAIT_MS = 60_000


class QueueBench:
    """One engine on one Redis, and the machines that were started on it."""

    def __init__(self, scheme: str, redis_url: str) -> None:
        self._url = redis_url.replace("redis://", f"{scheme}://", 1)
        settings = Settings(url=read_queue_url(self._url), methods=("fake",))
        self._records = Records(redis_url, settings.keep_s)
        self._redis: Any = connect(redis_url)
        self._producer = Producer(settings, self._records)
        self._machines: list[subprocess.Popen[bytes]] = []
        self._jobs = 0

    def ping_s(self) -> float:
        """The median of a round trip to Redis."""
        times = []
        for _ in range(_PINGS):
            start = time.perf_counter()
            self._redis.ping()
            times.append(time.perf_counter() - start)
        return median(times)

    def start_machines(self, count: int, *options: str) -> None:
        """Have so many machines, each of which has done one job."""
        command = [sys.executable, "-P", "-m", "upscaled_cli", "work", "--queue", self._url]
        for _ in range(count):
            self._machines.append(
                subprocess.Popen(
                    [*command, "--methods", "fake", *options],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
        while self._redis.zcard("upscaled:machines:fake") < len(self._machines):
            time.sleep(0.05)
        self.run(len(self._machines))

    def stop_machines(self) -> None:
        """End them all."""
        for machine in self._machines:
            machine.send_signal(signal.SIGTERM)
        for machine in self._machines:
            machine.wait(60)
        self._machines.clear()

    def run(self, count: int, **config: Any) -> list[float]:
        """Queue so many jobs at once: when each ended, in Redis' time."""
        from upscaled_queue.job import read_job

        before = self._redis.xinfo_stream(_OUTBOX)["last-generated-id"] if self._jobs else "0"
        jobs = []
        for _ in range(count):
            self._jobs += 1
            fields = {"job_id": f"job-{self._jobs}", "method": "fake", "config": config}
            jobs.append(read_job(fields))
        self._producer.submit(jobs)
        ends: list[float] = []
        while len(ends) < count:
            found = self._redis.xread({_OUTBOX: before}, count=count, block=_WAIT_MS)
            for before, _ in found[0][1]:
                ends.append(int(before.partition("-")[0]) / 1000)
        return ends

    def overhead_s(self) -> float:
        """The median from giving a no-op job to its end in the record, one at a time."""
        times = []
        for _ in range(_SINGLE_JOBS):
            start = time.perf_counter()
            self.run(1)
            times.append(time.perf_counter() - start)
        return median(times)

    def no_ops_per_s(self) -> float:
        """One machine's, from the first end to the last."""
        ends = self.run(_NO_OPS)
        return (len(ends) - 1) / max(ends[-1] - ends[0], 0.001)

    def jobs_per_s(self, machines: int) -> float:
        """Jobs of 1 s, from the first end to the last."""
        ends = self.run(_JOBS_PER_MACHINE * machines, steps=1, step_s=1.0)
        # Each machine's first job ends at the start of the time that is measured.
        return (len(ends) - machines) / (ends[-1] - ends[0])


@contextlib.contextmanager
def _running_redis(folder: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--dir", folder, "--save", "", "--appendonly", "yes"],
        stdout=subprocess.DEVNULL,
    )
    url = f"redis://127.0.0.1:{port}/0"
    try:
        while True:
            with contextlib.suppress(Exception), connect(url) as client:
                client.ping()
                break
            time.sleep(0.05)
        yield url
    finally:
        server.terminate()
        server.wait()


def _measure(name: str, scheme: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder, _running_redis(folder) as url:
        bench = QueueBench(scheme, url)
        try:
            ping_s = bench.ping_s()
            bench.start_machines(1)
            overhead_s = bench.overhead_s()
            no_ops_per_s = bench.no_ops_per_s()
            one = bench.jobs_per_s(1)
            bench.start_machines(_MACHINES - 1)
            many = bench.jobs_per_s(_MACHINES)
        finally:
            bench.stop_machines()
    return [
        name,
        f"{1000 * ping_s:.2f} ms",
        f"{1000 * overhead_s:.1f} ms",
        f"{no_ops_per_s:.0f}",
        f"{many / (_MACHINES * one):.2f}",
        f"{100 * (1 / one - 1):.1f} %",
    ]


def main() -> None:
    """Both engines, with the fake engine's jobs."""
    if shutil.which("redis-server") is None:
        print("upscaled bench queue: redis-server is not installed", file=sys.stderr)
        return
    os.environ.pop("UPSCALED_QUEUE_URL", None)
    print_table(
        f"one machine on a queue, and {_MACHINES} beside it",
        [
            "",
            "Redis PING",
            "no-op job, given to ended",
            "no-op jobs per second",
            f"{_MACHINES} machines / {_MACHINES} x one",
            "device idle between jobs of 1 s",
        ],
        [_measure(name, scheme) for name, scheme in ENGINES.items()],
    )
