"""`python -P -m upscaled_worker`, the same as `upscaled worker`: one bare worker on stdio."""

from upscaled_protocol.processtree import exit_with_parent
from upscaled_protocol.stdio import Wire, claim_stdio
from upscaled_protocol.utf8 import require_utf8

if __name__ == "__main__":
    require_utf8()
    # First of all: from here on no import, print or child process can reach the host's wire.
    _wire = claim_stdio()

import argparse
import faulthandler
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from upscaled_models.catalog import default_model_dir, why_unreadable
from upscaled_models.registry import DEFAULT_METHODS, engine_class, known_methods
from upscaled_protocol.configs import DEFAULT_DPI, DEFAULT_UPSCALE_FACTOR
from upscaled_protocol.lines import DEFAULT_LINE_LIMIT_BYTES
from upscaled_protocol.log import Logger
from upscaled_protocol.urlpolicy import HostPort, UrlPolicy

DEFAULT_MAX_QUEUE = 10_000
# Drained, but the input was not UTF-8, so its jobs were not read.
EXIT_UNREADABLE_INPUT = 1

_EXAMPLES = """examples:
  printf '{"job_id":"1","method":"esrgan","config":{"image_path":"a.jpg"}}\\n' | upscaled worker
  upscaled worker --methods fake            # a host's test partner: starts at once, no weights
  upscaled worker --allow-root /data --preload compact-x4

exit status: 0 drained, whatever became of the jobs, 1 the input was UTF-16 or UTF-32, 2 wrong
usage, 4 the host went away, 70 the worker failed, 75 the machine has no room for a thread.
"""


def parser() -> argparse.ArgumentParser:
    """The options of a worker; `upscaled run` passes them on."""
    env = os.environ
    options = argparse.ArgumentParser(
        prog="upscaled worker",
        description="One bare worker: JSON job lines on stdin, protocol lines on stdout.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add(
        "--methods",
        type=_methods,
        default=env.get("UPSCALED_METHODS") or ",".join(DEFAULT_METHODS),
        help="methods to serve, by comma; `fake` only where named (default: %(default)s)",
    )
    add(
        "--model-dir",
        type=Path,
        default=default_model_dir(),
        help="where weights lie (default: MODEL_CACHE_DIR or %(default)s)",
    )
    add(
        "--output-dir",
        type=Path,
        default=env.get("OUTPUT_DIR") or None,
        help="for outputs without a path (default: OUTPUT_DIR, else the input's folder)",
    )
    add(
        "--allow-root",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="confine every path of a job to DIR; may be repeated",
    )
    add("--allow-private-urls", action="store_true", help="let image_url reach private networks")
    add(
        "--allow-host",
        type=_host_port,
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="let image_url reach this host, and no host that is not given so; may be repeated",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: %(default)s)")
    add("--threads", type=int, help="CPU threads of the network (default: one a core)")
    add("--preload", action="append", default=[], metavar="MODEL", help="load before ready")
    add("--model-memory-gb", type=float, help="memory for loaded models; the oldest go first")
    add("--model-idle-s", type=float, help="unload a model that nobody used for so long")
    add("--max-input-megapixels", type=float, default=250.0, help="default: %(default)s")
    add("--max-output-megapixels", type=float, default=4000.0, help="default: %(default)s")
    add(
        "--cloud-jobs",
        type=_count,
        default=env.get("MAX_CONCURRENT_JOBS") or "10",
        help="imagen jobs, and calls, at once (default: MAX_CONCURRENT_JOBS or 10)",
    )
    add("--cloud-calls-per-minute", type=_count, default=50, help="default: %(default)s")
    add(
        "--cloud-budget-s",
        type=_count,
        default=300,
        help="time for one call with its retries (default: %(default)g)",
    )
    add(
        "--max-queue",
        type=int,
        default=DEFAULT_MAX_QUEUE,
        help="jobs in flight; more of them wait to be accepted (default: %(default)s)",
    )
    add("--line-limit-bytes", type=int, default=DEFAULT_LINE_LIMIT_BYTES, help="default: 32 MiB")
    add("--supervised", action="store_true", help=argparse.SUPPRESS)
    add("--parent-pid", type=int, help=argparse.SUPPRESS)
    return options


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check, the environment too. Raises `SystemExit` (2) with usage on stderr."""
    options = parser()
    known = options.parse_args(argv)
    try:
        known.default_factor = _number("DEFAULT_UPSCALE_FACTOR", DEFAULT_UPSCALE_FACTOR, most=16)
        known.default_dpi = int(_number("DEFAULT_DPI", DEFAULT_DPI, most=100_000))
    except ValueError as error:
        options.error(str(error))
    return known


def main(argv: Sequence[str] | None = None, wire: Wire | None = None) -> int:
    """Serve until the host is done. The exit status: 0 drained, 1 the input was UTF-16, 2 usage,
    4 the host is gone, 70 the worker failed."""
    options = read_options(argv)
    if options.parent_pid is not None:
        exit_with_parent(options.parent_pid)
    # A stalled worker is sent SIGABRT before SIGKILL: the stacks of its threads go to stderr.
    faulthandler.enable()
    wire = wire or claim_stdio()
    from upscaled_imaging.settings import Access, Defaults, Limits
    from upscaled_models.engine import Settings
    from upscaled_worker.loop import Worker, catch_signals

    settings = Settings(
        model_dir=options.model_dir,
        limits=Limits(
            max_input_megapixels=options.max_input_megapixels,
            max_output_megapixels=options.max_output_megapixels,
        ),
        access=Access(
            roots=tuple(root.resolve() for root in options.allow_root),
            urls=UrlPolicy(
                allow_private=options.allow_private_urls, allow_hosts=frozenset(options.allow_host)
            ),
            output_dir=options.output_dir,
        ),
        defaults=Defaults(factor=options.default_factor, dpi=options.default_dpi),
        device=options.device,
        threads=options.threads,
        model_memory_gb=options.model_memory_gb,
        model_idle_s=options.model_idle_s,
        preload=tuple(options.preload),
        cloud_jobs=options.cloud_jobs,
        cloud_calls_per_minute=options.cloud_calls_per_minute,
        cloud_budget_s=options.cloud_budget_s,
    )
    engines = {method: engine_class(method)(settings) for method in options.methods}
    worker = Worker(
        wire,
        engines,
        max_queue=options.max_queue,
        # A supervisor has judged the host's lines by its own limit, and may have added to them.
        line_limit_bytes=sys.maxsize if options.supervised else options.line_limit_bytes,
        supervised=options.supervised,
    )
    unreadable = why_unreadable(options.model_dir)
    if unreadable is not None:
        Logger(component="worker").log("warning", "model_folder_unreadable", detail=unreadable)
    catch_signals(worker)
    status = worker.run()
    if status:
        os._exit(status)  # threads may still run, and Python would wait for them
    return EXIT_UNREADABLE_INPUT if worker.has_unread_text else 0


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _host_port(text: str) -> HostPort:
    try:
        return HostPort.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _number(name: str, default: float, most: int) -> float:
    """What the environment says, 1 to `most`. Raises `ValueError` with the variable's name."""
    text = os.environ.get(name)
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 1 <= number <= most:
        raise ValueError(f"{name} must be a number from 1 to {most}, not {text!r}")
    return number


def _methods(text: str) -> tuple[str, ...]:
    methods = tuple(text.split(","))
    for method in methods:
        if method not in known_methods():
            known = ", ".join(known_methods())
            raise argparse.ArgumentTypeError(f"no method {method!r}; known: {known}")
    return methods


if __name__ == "__main__":
    sys.exit(main(wire=_wire))
