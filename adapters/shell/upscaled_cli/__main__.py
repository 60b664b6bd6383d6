"""`upscaled`: one command. A subcommand is imported only when it is used.

Hosts wait for `upscaled run`, so this module imports nothing that it does not need, not even
argparse.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from upscaled_cli import exits
from upscaled_cli.terminal import reason_of
from upscaled_protocol.processtree import block_hangups
from upscaled_protocol.utf8 import require_utf8
from upscaled_protocol.version import VERSION


class Subcommand(NamedTuple):
    """The module with its `main(argv)`, which returns the exit status, and what it does."""

    module: str
    summary: str


SUBCOMMANDS = {
    "run": Subcommand("upscaled_supervisor.__main__", "supervised workers on stdio, for hosts"),
    "worker": Subcommand("upscaled_worker.__main__", "one bare worker on stdio"),
    "upscale": Subcommand("upscaled_cli.upscale", "upscale pictures from the command line"),
    "batch": Subcommand("upscaled_cli.batch", "upscale a folder; continue an interrupted run"),
    "jobs": Subcommand("upscaled_cli.jobs", "write job lines, for `upscaled run` and pipes"),
    "serve": Subcommand("upscaled_http.command", "an HTTP API and a page, in front of one daemon"),
    "pipeline": Subcommand(
        "upscaled_queue.pipeline.command", "score pictures, upscale the small ones, file them"
    ),
    "work": Subcommand("upscaled_queue.work", "take jobs from a queue: Celery or BullMQ"),
    "queue": Subcommand("upscaled_queue.command", "give jobs to a queue, and see their ends"),
    "models": Subcommand("upscaled_cli.models", "list, pull, add and verify models"),
    "schema": Subcommand("upscaled_cli.schema", "print the protocol's JSON Schemas"),
    "doctor": Subcommand("upscaled_cli.doctor", "report what is missing here, and how to get it"),
    "bench": Subcommand("upscaled_cli.bench", "measure this machine"),
    "completion": Subcommand("upscaled_cli.completion", "print a completion script for a shell"),
}

_FOR_HOSTS = ("run", "worker")

_EPILOG = """
Each has its own --help, with examples.

examples:
  upscaled upscale photo.jpg -o photo-4x.png
  printf '{"job_id":"1","method":"esrgan","config":{"image_path":"photo.jpg"}}\\n' | upscaled run
  upscaled doctor

exit status: 0 done, 1 something failed, 2 wrong usage, 130 interrupted. `run` and `worker` have
others too.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; the exit status. argv: by default this process's arguments."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else None
    if name == "run":
        block_hangups()  # which ask it for a rolling restart
    if argv is None:
        require_utf8()
    if name not in _FOR_HOSTS:
        _open_what_is_closed()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # As on stderr: a name that the locale cannot show must not end the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(name, arguments[1:])
        finally:  # also if argparse exits
            if sys.stdout is not None:  # None: it was closed before the start
                sys.stdout.flush()
    except BrokenPipeError:
        # `upscaled models list | head`: the reader has ended.
        _drop_output()
        return exits.FAILED
    except OSError as error:
        if name in _FOR_HOSTS:  # their log gets the whole traceback
            raise
        print(f"upscaled: {reason_of(error)}", file=sys.stderr)
        _drop_output()
        return exits.FAILED
    except RuntimeError as error:
        if name in _FOR_HOSTS or "can't start new thread" not in str(error):
            raise
        print(
            "upscaled: there is no room for one more thread: raise `ulimit -u`, or the limit of "
            "processes of the container",
            file=sys.stderr,
        )
        return exits.FAILED
    except KeyboardInterrupt:
        return exits.INTERRUPTED


def _run(name: str | None, arguments: Sequence[str]) -> int:
    if name in SUBCOMMANDS:
        status: int = import_module(SUBCOMMANDS[name].module).main(arguments)
        return status
    if name in ("-h", "--help"):
        print(_help())
        return exits.OK
    if name == "--version":
        print(f"upscaled {VERSION}")
        return exits.OK
    if name is not None:
        print(f"upscaled: there is no subcommand {name}\n", file=sys.stderr)
    print(_help(), file=sys.stderr)
    return exits.USAGE


def _open_what_is_closed() -> None:
    """Give closed streams a place, as in `upscaled upscale photo.jpg >&-`."""
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - open to the end


def _drop_output() -> None:
    """Drop what could not be written, because Python flushes again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _help() -> str:
    rows = "\n".join(f"  {name:10}  {sub.summary}" for name, sub in SUBCOMMANDS.items())
    return f"usage: upscaled [--help | --version] SUBCOMMAND ...\n\n{rows}\n{_EPILOG}"


if __name__ == "__main__":
    sys.exit(main())
