"""`-` in place of a file: a picture is read from stdin, or written to stdout."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STREAM = "-"


def check_streams(options: argparse.Namespace) -> None:
    """Raise `ValueError` if `-` is given for something that cannot be a stream."""
    pictures = len(options.inputs)
    if options.inputs.count(STREAM) > 1:
        raise ValueError("stdin is one picture: give - once")
    if STREAM in options.inputs and options.output is None:
        raise ValueError(
            "a picture from stdin has no folder for its output: give -o FILE, or -o - for stdout"
        )
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
    """Read stdin to its end, and put files into the configs in place of the streams. Yields the
    file for stdout; None if there is none.

    The daemon uses files, because a line cannot hold a large picture. They are removed at the end.
    """
    if STREAM not in options.inputs and options.output != STREAM:
        yield None
        return
    # SIGTERM ends as Ctrl-C does, because the files would stay otherwise.
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with tempfile.TemporaryDirectory(prefix="upscaled-") as folder:
            output = Path(folder, "stdout") if options.output == STREAM else None
            for name, config in zip(options.inputs, configs, strict=True):
                if name == STREAM:
                    config["image_path"] = str(_read_stdin(Path(folder, "stdin")))
                if output is not None:
                    config["output_path"] = str(output)
            yield output
    finally:
        signal.signal(signal.SIGTERM, before)


def _read_stdin(target: Path) -> Path:
    with target.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return target


def write_stdout(file: Path) -> None:
    """Copy the file to stdout."""
    with file.open("rb") as picture:
        shutil.copyfileobj(picture, sys.stdout.buffer)
    sys.stdout.flush()
