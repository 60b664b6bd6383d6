"""One ESRGAN job in a process of its own: `python -m upscaled_bench.one_job MODEL INPUT OUTPUT`.

Prints the seconds that the job took and the process' peak memory, as JSON.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

import orjson

from upscaled_imaging.context import Phase
from upscaled_models.engine import Settings
from upscaled_models.esrgan.engine import EsrganEngine
from upscaled_protocol.configs import EsrganConfig


class Surroundings:
    """The context of a job without a host. Jobs with the same `turn` share the device."""

    job_id = "bench"
    attempt = 1
    accepted_as: str | None = None

    def __init__(self, turn: Lock | None = None) -> None:
        self._turn = turn or Lock()

    def progress(self, percent: float, stage: str, **_: object) -> None: ...

    def check_cancelled(self) -> None: ...

    @contextlib.contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def device_turn(self) -> Iterator[None]:
        with self._turn:
            yield

    def warn(self, text: str) -> None:
        print(text, file=sys.stderr)


def peak_bytes() -> int:
    """The most memory that this process had resident (Linux)."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Run the job that the command line names."""
    model, source, output = sys.argv[1:]
    engine = EsrganEngine(Settings(model_dir=Path(model).parent))
    engine.start()
    config = EsrganConfig(image_path=source, output_path=output, model=model)
    start = time.perf_counter()
    engine.run(config, Surroundings())
    seconds = time.perf_counter() - start
    sys.stdout.buffer.write(orjson.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}))


if __name__ == "__main__":
    main()
