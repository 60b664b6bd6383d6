"""The options of `upscaled run`. Whatever it does not know belongs to the worker."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from upscaled_protocol.lines import DEFAULT_LINE_LIMIT_BYTES
from upscaled_supervisor.devices import read_devices

EXIT_COMPLETED = 0
EXIT_SOME_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_WORKER = 3
EXIT_HOST_GONE = 4

DEFAULT_MAX_QUEUE = 10_000
# Twice what the slowest tile takes on a slow CPU; engines ask for more where they need it.
DEFAULT_STALL_TIMEOUT_S = 120.0
# From the spawn of a worker to its ready: imports from a cold disk, and models to preload.
DEFAULT_START_TIMEOUT_S = 600.0
# A container's host usually kills after 30 s; a little is left for the last results.
DEFAULT_GRACE_S = 25.0
# A cancel is due within one tile or one diffusion step.
DEFAULT_CANCEL_GRACE_S = 20.0

_EXAMPLES = """\
Options that are not listed here go to the workers: see `upscaled worker --help`.

examples:
  upscaled run < jobs.jsonl > results.jsonl
  printf '{"job_id":"1","method":"esrgan","config":{"image_path":"a.jpg"}}\\n' | upscaled run
  upscaled run --workers 2 --device cuda:0,cuda:1 --preload 4x-UltraSharp
  upscaled run --journal /var/lib/upscaled/jobs.db --memory-limit-mb 8000
  upscaled run --methods fake                  # a host's test partner: no weights, starts at once

exit status: 0 every job completed, 1 some job ended in an error or was left to the journal, or
some line was refused, 2 usage, 3 no worker could be kept alive, or the journal cannot be used,
4 the host went away.
"""


class Options(argparse.Namespace):
    """How one supervisor runs; the attributes are the long options."""

    workers: int
    device: list[str]
    template: bool
    journal: Path | None
    metrics_address: str | None
    max_queue: int
    line_limit_bytes: int
    stall_timeout_s: float
    start_timeout_s: float
    cancel_grace_s: float
    grace_s: float
    memory_limit_mb: float | None
    gpu_memory_limit_mb: float | None
    max_jobs: int | None
    max_age_s: float | None
    worker_argv: list[str]

    @property
    def recycles(self) -> bool:
        """Whether workers have any limit to their lives."""
        limits = (self.memory_limit_mb, self.gpu_memory_limit_mb, self.max_jobs, self.max_age_s)
        return any(limit is not None for limit in limits)


def read_options(argv: Sequence[str] | None) -> Options:
    """Parse. Raises `SystemExit` (2) with usage on stderr."""
    options, worker_argv = parser().parse_known_args(argv, Options())
    options.worker_argv = worker_argv
    options.workers = options.workers or max(len(options.device), 1)
    return options


def parser() -> argparse.ArgumentParser:
    """The command line of `upscaled run`."""
    arguments = argparse.ArgumentParser(
        prog="upscaled run",
        description="Supervised workers: JSON job lines on stdin, protocol lines on stdout. "
        "Restarts workers and loses no job.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a worker's option must not be taken for the start of one of ours
    )
    fleet = arguments.add_argument_group("fleet")
    fleet.add_argument("--workers", type=_count, help="how many (default: one a device, else 1)")
    fleet.add_argument(
        "--device",
        type=read_devices,
        default=[],
        help="devices by comma, as in cuda:0,cuda:1 or cpu",
    )
    fleet.add_argument(
        "--template",
        action=argparse.BooleanOptionalAction,
        default=sys.platform == "linux",  # elsewhere system libraries do not survive a fork
        help="fork workers from a process that has everything imported (default: on Linux)",
    )
    jobs = arguments.add_argument_group("jobs")
    jobs.add_argument(
        "--max-queue",
        type=_count,
        default=DEFAULT_MAX_QUEUE,
        help="jobs in flight; more of them wait to be accepted (default: %(default)s)",
    )
    jobs.add_argument(
        "--line-limit-bytes", type=_count, default=DEFAULT_LINE_LIMIT_BYTES, help="default: 32 MiB"
    )
    jobs.add_argument(
        "--stall-timeout-s",
        type=_above_zero,
        default=DEFAULT_STALL_TIMEOUT_S,
        help="silence of a running job before its worker is replaced (default: %(default)g)",
    )
    jobs.add_argument(
        "--cancel-grace-s",
        type=_above_zero,
        default=DEFAULT_CANCEL_GRACE_S,
        help="time to obey a cancel or a deadline before the worker is killed "
        "(default: %(default)g)",
    )
    jobs.add_argument(
        "--journal", type=Path, help="SQLite file in which accepted jobs survive our own death"
    )
    life = arguments.add_argument_group("workers' lives")
    life.add_argument(
        "--start-timeout-s",
        type=_above_zero,
        default=DEFAULT_START_TIMEOUT_S,
        help="time to get ready (default: %(default)g)",
    )
    life.add_argument(
        "--grace-s",
        type=_above_zero,
        default=DEFAULT_GRACE_S,
        help="time to finish jobs after SIGTERM (default: %(default)g)",
    )
    life.add_argument(
        "--memory-limit-mb",
        type=_above_zero,
        help="resident memory of a worker before it is replaced; trimmed at four fifths",
    )
    life.add_argument(
        "--gpu-memory-limit-mb", type=_above_zero, help="the same on its GPU, where NVML is"
    )
    life.add_argument("--max-jobs", type=_count, help="jobs of a worker before it is replaced")
    life.add_argument("--max-age-s", type=_above_zero, help="age of a worker before it is replaced")
    arguments.add_argument(
        "--metrics-address",
        metavar="HOST:PORT",
        default=os.environ.get("UPSCALED_METRICS_ADDRESS") or None,
        help="serve Prometheus metrics over HTTP",
    )
    return arguments


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _above_zero(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return number
