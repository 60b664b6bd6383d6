"""How soon after its start the daemon takes a job, beside the interpreter's own start."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from upscaled_bench.pipes import RUN, child, seconds
from upscaled_bench.table import print_table

_STARTS = 10


def _first_job() -> float:
    start = time.perf_counter()
    with child([*RUN, "--methods", "fake"]) as pipe:
        pipe.write(b'{"job_id":"1","method":"fake","config":{"steps":0}}\n')
        pipe.wait_for(lambda message: message["type"] == "accepted")
        taken = time.perf_counter() - start
        pipe.wait_result("1")
    return taken


def main() -> None:
    """Medians of some starts in turn."""
    starts = [_first_job() for _ in range(_STARTS)]
    bare = [
        seconds(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))
        for _ in range(_STARTS)
    ]
    print_table(
        "from the start of the process to its first job accepted",
        ["", "median", "of Python's own start"],
        [
            ["python -c pass", f"{median(bare) * 1e3:.0f} ms", "1.0x"],
            [
                "upscaled run",
                f"{median(starts) * 1e3:.0f} ms",
                f"{median(starts) / median(bare):.1f}x",
            ],
        ],
    )
