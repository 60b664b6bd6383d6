"""The options of `upscaled run`. Every other option is passed to the workers."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from upscaled_protocol.lines import DEFAULT_LINE_LIMIT_BYTES
from upscaled_protocol.optionvalues import above_zero, count, given_path
from upscaled_supervisor.devices import read_devices

EXIT_COMPLETED = 0
EXIT_SOME_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_WORKER = 3
EXIT_HOST_GONE = 4

DEFAULT_MAX_QUEUE = 10_000
# Twice the time of the slowest tile on a slow CPU. Engines ask for more time if they need it.
DEFAULT_STALL_TIMEOUT_S = 120.0
# From the start of a worker until it is ready: imports from a cold disk, and models to preload.
DEFAULT_START_TIMEOUT_S = 600.0
# A container is usually killed after 30 s: 5 s are left for the last results.
DEFAULT_GRACE_S = 25.0
# A cancel is due within one tile or one diffusion step.
DEFAULT_CANCEL_GRACE_S = 20.0

_EXAMPLES = """\
Every other option is passed to the workers: see `upscaled worker --help`.

examples:
  upscaled run < jobs.jsonl > results.jsonl
  printf '{"job_id":"1","method":"esrgan","config":{"image_path":"a.jpg"}}\\n' | upscaled run
  upscaled run --workers 2 --device cuda:0,cuda:1 --preload 4x-UltraSharp
  upscaled run --journal /var/lib/upscaled/jobs.db --memory-limit-mb 8000
  upscaled run --methods fake                  # to test a host: no weights, starts at once

exit status: 0 every job completed, 1 a job ended in an error or was left to the journal, or a line
was refused, 2 usage, 3 no worker could be kept running, or the journal cannot be used, 4 the host
closed stdout, or a stream is broken.
"""


class Options(argparse.Namespace):
    """The long options of `upscaled run` as attributes."""

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
        """True if an option limits the memory, the jobs or the age of a worker."""
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
        "Workers that crash are restarted, and no job is lost.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # a worker's option must not be read as a short form of ours
    )
    fleet = arguments.add_argument_group("fleet")
    fleet.add_argument("--workers", type=count, help="number of workers (default: one per device)")
    fleet.add_argument(
        "--device",
        type=read_devices,
        default=[],
        help="devices separated by commas, such as cuda:0,cuda:1 or cpu",
    )
    fleet.add_argument(
        "--template",
        action=argparse.BooleanOptionalAction,
        default=sys.platform == "linux",  # system libraries of macOS do not survive a fork
        help="fork workers from a process that has all libraries imported (default: on Linux)",
    )
    jobs = arguments.add_argument_group("jobs")
    jobs.add_argument(
        "--max-queue",
        type=count,
        default=DEFAULT_MAX_QUEUE,
        help="accepted jobs at a time; further job lines wait (default: %(default)s)",
    )
    jobs.add_argument(
        "--line-limit-bytes", type=count, default=DEFAULT_LINE_LIMIT_BYTES, help="default: 32 MiB"
    )
    jobs.add_argument(
        "--stall-timeout-s",
        type=above_zero,
        default=DEFAULT_STALL_TIMEOUT_S,
        help="time without progress of a running job, until its worker is killed "
        "(default: %(default)g)",
    )
    jobs.add_argument(
        "--cancel-grace-s",
        type=above_zero,
        default=DEFAULT_CANCEL_GRACE_S,
        help="time for a job to end after a cancel or a deadline, until its worker is killed "
        "(default: %(default)g)",
    )
    jobs.add_argument(
        "--journal",
        type=given_path,
        help="SQLite file that keeps accepted jobs if the supervisor is killed",
    )
    limits = arguments.add_argument_group("limits of a worker")
    limits.add_argument(
        "--start-timeout-s",
        type=above_zero,
        default=DEFAULT_START_TIMEOUT_S,
        help="time until a worker must be ready (default: %(default)g)",
    )
    limits.add_argument(
        "--grace-s",
        type=above_zero,
        default=DEFAULT_GRACE_S,
        help="time to finish jobs after SIGTERM (default: %(default)g)",
    )
    limits.add_argument(
        "--memory-limit-mb",
        type=above_zero,
        help="resident memory at which a worker is replaced; it is trimmed at four fifths of that",
    )
    limits.add_argument(
        "--gpu-memory-limit-mb", type=above_zero, help="the same for its GPU; needs NVML"
    )
    limits.add_argument("--max-jobs", type=count, help="jobs after which a worker is replaced")
    limits.add_argument("--max-age-s", type=above_zero, help="age at which a worker is replaced")
    arguments.add_argument(
        "--metrics-address",
        metavar="HOST:PORT",
        default=os.environ.get("UPSCALED_METRICS_ADDRESS") or None,
        help="serve Prometheus metrics over HTTP",
    )
    return arguments
