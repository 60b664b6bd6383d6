"""`-` in place of a file: a picture is read from stdin, or written to stdout. A pipe, as bash makes
it for `<(command)`, is read too: the daemon cannot open it.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STREAM = "-"
_OTHER_NAMES = ("/dev/stdin", "/dev/stdout")


def name_streams(options: argparse.Namespace) -> None:
    """Replace other names of stdin and stdout by `-`."""
    options.inputs = [STREAM if one == _OTHER_NAMES[0] else one for one in options.inputs]
    if options.output == _OTHER_NAMES[1]:
        options.output = STREAM


def is_stream(given: str) -> bool:
    """True for `-` and for a pipe."""
    try:
        return given == STREAM or stat.S_ISFIFO(Path(given).stat().st_mode)
    except (OSError, ValueError):
        return False


def check_streams(options: argparse.Namespace) -> None:
    """Raise `ValueError` if `-` is given for something that cannot be a stream."""
    pictures = len(options.inputs)
    if options.inputs.count(STREAM) > 1:
        raise ValueError("stdin is one picture: give - once")
    if options.output is None and any(map(is_stream, options.inputs)):
        raise ValueError(
            "a picture from stdin or a pipe has no folder for its output: give -o FILE, or -o - "
            "for stdout"
        )
    if STREAM in options.inputs and sys.stdin is None:
        raise ValueError("- reads a picture from stdin, which is closed: redirect it, < a.jpg")
    if STREAM in options.inputs and sys.stdin.isatty():
        raise ValueError("- reads a picture from stdin, which is a terminal: redirect it, < a.jpg")
    if options.output != STREAM:
        return
    if pictures > 1:
        raise ValueError(f"stdout takes one picture, and there are {pictures}: give -o a folder")
    if options.json:
        raise ValueError("--json and -o - both write to stdout: give one of them")
    if sys.stdout.isatty():
        raise ValueError(
            "-o - writes a picture to stdout, which is a terminal: redirect it, > b.png"
        )


@contextmanager
def streams(
    options: argparse.Namespace, configs: Sequence[dict[str, Any]]
) -> Iterator[Path | None]:
    """Read stdin and pipes to their ends, and put files into the configs in place of the streams.
    Yields the file for stdout; None if there is none.

    The daemon uses files, because a line cannot hold a large picture. They are removed at the end.
    """
    read = {number: name for number, name in enumerate(options.inputs) if is_stream(name)}
    if not read and options.output != STREAM:
        yield None
        return
    # SIGTERM ends as Ctrl-C does, because the files would stay otherwise.
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with tempfile.TemporaryDirectory(prefix="upscaled-") as folder:
            output = Path(folder, "stdout") if options.output == STREAM else None
            for number, name in read.items():
                # The daemon names an output in a folder by its input.
                target = Path(folder, "stdin" if name == STREAM else f"pipe{number}")
                configs[number]["image_path"] = str(_read(name, target))
            if output is not None:
                configs[0]["output_path"] = str(output)
            yield output
    finally:
        signal.signal(signal.SIGTERM, before)


def _read(name: str, target: Path) -> Path:
    with target.open("wb") as file:
        if name == STREAM:
            shutil.copyfileobj(sys.stdin.buffer, file)
        else:
            with Path(name).open("rb") as pipe:
                shutil.copyfileobj(pipe, file)
    return target


def write_stdout(file: Path) -> None:
    """Copy the file to stdout. Raises `OSError`, with the name stdout."""
    try:
        with file.open("rb") as picture:
            shutil.copyfileobj(picture, sys.stdout.buffer)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "stdout") from error
