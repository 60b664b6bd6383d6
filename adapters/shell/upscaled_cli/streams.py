"""`-` in place of a file: a picture's bytes come on stdin, or go to stdout."""

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
    """Raise `ValueError` if `-` stands where no stream can."""
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
    """Read stdin to its end, and put files into the configs in place of the streams. The file that
    is to go to stdout; None if none is.

    The daemon takes files: a line could not hold a large picture. They are removed at the end.
    """
    if STREAM not in options.inputs and options.output != STREAM:
        yield None
        return
    # Ends as Ctrl-C does, because the files would stay otherwise.
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
