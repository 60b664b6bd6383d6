"""`python -P -m upscaled_worker`, the same as `upscaled worker`: one bare worker on stdio."""

from upscaled_protocol.processtree import exit_with_parent
from upscaled_protocol.stdio import Wire, claim_stdio
from upscaled_protocol.utf8 import require_utf8

if __name__ == "__main__":
    require_utf8()
    # Before every other import: from here on nothing that is printed can reach the host.
    _wire = claim_stdio()

import argparse
import faulthandler
import math
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from upscaled_imaging.settings import Defaults, PictureSettings
from upscaled_models.catalog import Catalog, why_unreadable
from upscaled_models.engine import Settings
from upscaled_models.registry import default_methods, engine_class, known_methods
from upscaled_protocol.choices import DEFAULT_DPI, DEFAULT_UPSCALE_FACTOR
from upscaled_protocol.flags import add_flags, read_flags
from upscaled_protocol.lines import DEFAULT_LINE_LIMIT_BYTES
from upscaled_protocol.log import Logger
from upscaled_protocol.optionvalues import count

DEFAULT_MAX_QUEUE = 10_000
# The exit status of a drained worker whose input was not UTF-8, so that its jobs were not read.
EXIT_UNREADABLE_INPUT = 1

_EXAMPLES = """examples:
  printf '{"job_id":"1","method":"esrgan","config":{"image_path":"a.jpg"}}\\n' | upscaled worker
  upscaled worker --methods fake            # a host's test partner: starts at once, no weights
  upscaled worker --allow-root /data --preload compact-x4

exit status: 0 drained, also if jobs failed, 1 the input was UTF-16 or UTF-32, 2 wrong usage,
4 the host is gone, 70 the worker failed, 75 the machine has no room for a thread.
"""


class WrongUsageError(SystemExit):
    """Raised for wrong options or a wrong variable of the environment, once the usage is printed.
    `text` says what is wrong."""

    def __init__(self, text: str) -> None:
        super().__init__(2)
        self.text = text


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        try:
            super().error(message)
        except SystemExit:
            raise WrongUsageError(message) from None


def parser() -> argparse.ArgumentParser:
    """The options of a worker; `upscaled run` passes them on."""
    options = _Parser(
        prog="upscaled worker",
        description="One bare worker: JSON job lines on stdin, protocol lines on stdout.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument(
        "--methods",
        type=_methods,
        default=os.environ.get("UPSCALED_METHODS") or ",".join(default_methods()),
        help="methods to serve, separated by commas (default: %(default)s)",
    )
    add_flags(options.add_argument_group("pictures"), PictureSettings)
    add_flags(options.add_argument_group("engines"), Settings, without=PictureSettings)
    lines = options.add_argument_group("lines")
    lines.add_argument(
        "--max-queue",
        type=count,
        default=DEFAULT_MAX_QUEUE,
        help="jobs in flight; further ones wait to be accepted (default: %(default)s)",
    )
    lines.add_argument(
        "--line-limit-bytes", type=count, default=DEFAULT_LINE_LIMIT_BYTES, help="default: 32 MiB"
    )
    options.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)
    options.add_argument("--parent-pid", type=int, help=argparse.SUPPRESS)
    return options


def read_options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the options and the environment.

    Raises `WrongUsageError`, with the usage on stderr.
    """
    options = parser()
    known = options.parse_args(argv)
    try:
        known.defaults = Defaults(
            factor=_number("DEFAULT_UPSCALE_FACTOR", DEFAULT_UPSCALE_FACTOR, most=16),
            dpi=int(_number("DEFAULT_DPI", DEFAULT_DPI, most=100_000)),
        )
    except ValueError as error:
        options.error(str(error))
    return known


def main(argv: Sequence[str] | None = None, wire: Wire | None = None) -> int:
    """Serve until the host ends its input. Returns the exit status: see `_EXAMPLES`."""
    options = read_options(argv)
    if options.parent_pid is not None:
        exit_with_parent(options.parent_pid)
    # A supervisor sends a stalled worker SIGABRT before SIGKILL, for its threads' stacks on stderr.
    faulthandler.enable()
    wire = wire or claim_stdio()
    from upscaled_worker.loop import Worker, catch_signals

    settings = read_flags(Settings, options, defaults=options.defaults)
    engines = {method: engine_class(method)(settings) for method in options.methods}
    worker = Worker(
        wire,
        engines,
        max_queue=options.max_queue,
        # A supervisor has applied its own limit, and may have added fields to the lines.
        line_limit_bytes=sys.maxsize if options.supervised else options.line_limit_bytes,
        supervised=options.supervised,
    )
    log = Logger(component="worker")
    unreadable = why_unreadable(settings.model_dir)
    if unreadable is not None:
        log.log("warning", "model_folder_unreadable", detail=unreadable)
    if settings.preload:
        catalog = Catalog.load()
        for name in settings.preload:
            method = catalog.method_of(name)
            if method not in options.methods:
                detail = f"--preload {name} needs the {method} method, which is not in --methods"
                log.log("warning", "preload_ignored", detail=detail)
    catch_signals(worker)
    status = worker.run()
    if status:
        os._exit(status)  # threads may still run, and Python would wait for them
    return EXIT_UNREADABLE_INPUT if worker.has_unread_text else 0


def _number(name: str, default: float, most: int) -> float:
    """A variable of the environment, 1 to `most`. Raises `ValueError` with its name."""
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
