"""`upscaled batch DIR -o DIR`: a folder of pictures, in as many goes as it takes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from upscaled_cli import exits
from upscaled_cli.channel import Message
from upscaled_cli.client import DAEMON, Client, DaemonGoneError
from upscaled_cli.config import add_arguments, config_of

_EXAMPLES = """examples:
  upscaled batch photos -o large
  upscaled batch scans -o prints --width-inches 18 --dpi 300 --format tiff
  upscaled batch photos -o large          # again: only what is new, has changed or has failed

The output folder gets the folders of the input. A picture is done where its output is there and is
not older; outputs appear whole or not at all. Other options do not make it undone: see --force.

exit status: 0 every picture is there, 1 some failed, 2 wrong usage, 130 interrupted.
"""

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".avif"})

# Far more than a daemon runs at once, far less than it holds.
_WINDOW = 64


class Picture(NamedTuple):
    """An input, and where its output goes."""

    name: str
    source: Path
    target: Path

    @property
    def is_done(self) -> bool:
        """Whether the output is there, and not older than the input."""
        try:
            return self.target.stat().st_mtime >= self.source.stat().st_mtime
        except OSError:
            return False


def main(argv: Sequence[str], daemon: Sequence[str] = DAEMON) -> int:
    """Upscale the folder's pictures; the exit status."""
    arguments = parser()
    options = arguments.parse_args(argv)
    failures: dict[str, str] = {}

    def pass_over(error: OSError) -> None:
        failures[str(error.filename)] = f"it cannot be read: {error.strerror}"

    try:
        config = config_of(options)
        pictures = find_pictures(options.folder, options.output, options.format or "png", pass_over)
    except ValueError as error:
        arguments.error(str(error))
    to_do = [picture for picture in pictures if options.force or not picture.is_done]
    status = exits.OK
    done = ended = 0
    try:
        for picture, failure in _upscale(to_do, options, config, daemon):
            ended += 1
            done += failure is None
            if failure is not None:
                failures[picture.name] = failure
    except (DaemonGoneError, OSError) as error:
        print(f"upscaled batch: {error}", file=sys.stderr)
        status = exits.FAILED
    except KeyboardInterrupt:
        status = exits.INTERRUPTED
    for name, sentence in failures.items():
        print(f"{name}: {sentence}", file=sys.stderr)
    left = len(to_do) - ended
    print(
        f"{done} upscaled, {len(pictures) - len(to_do)} done before, {len(failures)} failed"
        + (f", {left} left: run it again to go on" if left else "")
    )
    return status or (exits.FAILED if failures else exits.OK)


def find_pictures(
    folder: Path, output: Path, suffix: str, pass_over: Callable[[OSError], None]
) -> list[Picture]:
    """Every picture in the folder and those below, sorted by name.

    `pass_over` is told of a folder that cannot be read. Raises `ValueError` where two would have
    the same output, or the folder is none.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    if output.resolve() == folder.resolve():
        raise ValueError("the output folder must be another one than the input folder")
    pictures: dict[Path, Picture] = {}
    for parent, folders, names in os.walk(folder, onerror=pass_over):
        # An output folder below the input must not become input the next time.
        folders[:] = sorted(
            name for name in folders if (Path(parent) / name).resolve() != output.resolve()
        )
        for source in (Path(parent) / name for name in sorted(names)):
            if source.suffix.lower() not in _SUFFIXES:
                continue
            name = source.relative_to(folder)
            target = output / name.with_suffix(f".{suffix}")
            if target in pictures:
                raise ValueError(f"{pictures[target].name} and {name} would have the same output")
            pictures[target] = Picture(str(name), source, target)
    return list(pictures.values())


def _upscale(
    pictures: Sequence[Picture],
    options: argparse.Namespace,
    config: dict[str, Any],
    daemon: Sequence[str],
) -> Iterator[tuple[Picture, str | None]]:
    """Each picture as it ends, with a sentence where it failed."""
    from tqdm import tqdm

    if not pictures:
        return
    options.output.mkdir(parents=True, exist_ok=True)
    waiting = iter(pictures)
    running: dict[str, Picture] = {}
    bar = tqdm(total=len(pictures), unit="picture", leave=False, disable=None)
    with bar, Client(daemon, show_log=options.verbose) as client:

        def submit_next() -> Iterator[tuple[Picture, str]]:
            """Give the daemon one more; those that it cannot be given have failed."""
            for picture in waiting:
                paths = {
                    "image_path": os.path.abspath(picture.source),  # noqa: PTH100 - a link is kept
                    "output_path": os.path.abspath(picture.target),  # noqa: PTH100
                }
                try:
                    picture.target.parent.mkdir(parents=True, exist_ok=True)
                    job_id = client.submit(options.method, {**config, **paths})
                except (OSError, ValueError) as error:
                    bar.update()
                    yield picture, str(error)
                else:
                    running[job_id] = picture
                    return

        for _ in range(_WINDOW):
            yield from submit_next()
        for message in client.events():
            picture = running.get(str(message.get("job_id")))
            if message.get("type") not in ("result", "error") or picture is None:
                continue
            del running[str(message["job_id"])]
            bar.update()
            yield from submit_next()
            yield picture, _failure(message)


def _failure(message: Message) -> str | None:
    return None if message["type"] == "result" else str(message.get("error"))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="upscaled batch",
        description="Upscale a folder of pictures, and go on where that was interrupted.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("folder", type=Path, metavar="DIR", help="where the pictures are")
    arguments.add_argument(
        "-o", "--output", type=Path, metavar="DIR", required=True, help="where they are to go"
    )
    arguments.add_argument("--force", action="store_true", help="also what is done already")
    more = add_arguments(arguments)
    more.add_argument("-v", "--verbose", action="store_true", help="show the daemon's log")
    return arguments
