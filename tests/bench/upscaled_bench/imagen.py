"""Many calls to a slow service side by side, and how much they slow an ESRGAN job down."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import orjson
import psutil
import pyvips

from upscaled_bench.networks import save_larger
from upscaled_bench.pipes import RUN, Pipe, child
from upscaled_bench.table import print_table
from upscaled_models.registry import is_installed

_JOBS = 50
_AT_ONCE = 10
_SERVICE_S = 0.2
_SERIAL_JOBS = 10
_PAIRS = 5
# A job of several seconds, and so longer than the calls: what they take of the cores is a sum,
# whatever they run beside.
_SIDE = 2400
_OPTIONS = ["--cloud-jobs", str(_AT_ONCE), "--cloud-calls-per-minute", "1000000"]


@contextmanager
def _service() -> Iterator[psutil.Process]:
    """The loopback server as a process of its own, and its address in our environment."""
    argv = ["-m", "upscaled_models.imagen.loopback", "--delay-s", str(_SERVICE_S)]
    process = subprocess.Popen([sys.executable, *argv], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        words = process.stdout.readline().removeprefix("export ").split()
        os.environ.update(dict(word.split("=", 1) for word in words))
        try:
            yield psutil.Process(process.pid)
        finally:
            process.kill()


class _Host:
    """Sends pictures and takes ends as they come."""

    def __init__(self, pipe: Pipe, folder: Path) -> None:
        self._pipe = pipe
        self._folder = folder
        self._sent = 0
        self._ended: dict[str, float] = {}

    def send(self, method: str, path: Path, **fields: str) -> str:
        """Start a job; its id."""
        self._sent += 1
        job_id = f"{method}-{self._sent}"
        output = self._folder / f"{job_id}.png"
        config = {"image_path": str(path), "output_path": str(output), **fields}
        job = {"job_id": job_id, "method": method, "config": config}
        self._pipe.write(orjson.dumps(job) + b"\n")
        return job_id

    def wait(self, *job_ids: str) -> float:
        """The time at which the last of them ended. Raises `RuntimeError` if one failed."""
        while not self._ended.keys() >= set(job_ids):
            end = self._pipe.wait_for(lambda one: one["type"] in ("result", "error"))
            if end["type"] == "error":
                raise RuntimeError(end["error"])
            self._ended[end["job_id"]] = time.perf_counter()
        return max(self._ended[job_id] for job_id in job_ids)


def _picture(path: Path, side: int) -> Path:
    rows, columns = np.mgrid[0:side, 0:side]
    waves = 127 + 80 * np.sin(rows / 7) * np.cos(columns / 9)
    noise = np.random.default_rng(0).normal(0, 8, (side, side, 3))
    pixels = (waves[..., None] + noise).clip(0, 255).astype(np.uint8)
    pyvips.Image.new_from_array(pixels).write_to_file(str(path))
    return path


def _processor_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """One daemon, both methods: pairs of an ESRGAN job alone, and one beside the calls.

    Every number is the median of the pairs; the last ratios are medians of the pairs' own, so that
    what else this machine does counts as little as it can.
    """
    if not is_installed("imagen"):
        print("\nimagen needs pip install 'upscaled[imagen]'")
        return
    with tempfile.TemporaryDirectory() as name, _service() as service:
        small = _picture(Path(name) / "small.png", 64)
        large = _picture(Path(name) / "large.png", _SIDE)
        model = str(save_larger(Path(name) / "larger.pth"))
        with child([*RUN, "--methods", "esrgan,imagen", *_OPTIONS]) as pipe:
            host = _Host(pipe, Path(name))
            upscale_large = partial(host.send, "esrgan", large, model=model)
            host.wait(host.send("imagen", small), upscale_large())  # what loads, loads
            start = time.perf_counter()
            for _ in range(_SERIAL_JOBS):
                ended = host.wait(host.send("imagen", small))
            serial = (ended - start) * _JOBS / _SERIAL_JOBS
            calls, alone, beside, less = [], [], [], []
            for _ in range(_PAIRS):
                start = time.perf_counter()
                alone.append(host.wait(upscale_large()) - start)

                start, spent = time.perf_counter(), _processor_s(service)
                local = upscale_large()
                calls.append(host.wait(*(host.send("imagen", small) for _ in range(_JOBS))) - start)
                beside.append(host.wait(local) - start)
                # It works on this machine's cores, as no cloud service would.
                share = (_processor_s(service) - spent) / (os.cpu_count() or 1)
                less.append(beside[-1] - share)

    def row(label: str, seconds: list[float], rivals: list[float]) -> list[str]:
        ratio = median(one / rival for one, rival in zip(seconds, rivals, strict=True))
        return [label, f"{median(seconds):.2f}", f"{ratio:.2f}"]

    print_table(
        f"{_JOBS} Imagen jobs of {_SERVICE_S} s service time, {_AT_ONCE} at once, while an ESRGAN "
        "job runs (64 features, 16 convolutions)",
        ["", "seconds", "ratio"],
        [
            ["Imagen, one after the other", f"{serial:.2f}", "1.00"],
            row("Imagen, beside ESRGAN", calls, [serial] * _PAIRS),
            row(f"ESRGAN {_SIDE}x{_SIDE}, alone", alone, alone),
            row("ESRGAN, beside Imagen", beside, alone),
            row("the same, less the stand-in service's share of the cores", less, alone),
        ],
    )
    cost = median(one - rival for one, rival in zip(less, alone, strict=True)) / _JOBS
    print(f"\nso a call takes {cost * 1000:.0f} ms of the ESRGAN job's time")
