"""`upscaled batch DIR -o DIR`: upscales a folder, and continues after an interruption."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from upscaled.errors import DaemonGoneError
from upscaled.messages import Message
from upscaled_cli import exits
from upscaled_cli.config import add_arguments, by_options, config_of, remarks_on
from upscaled_cli.named import check_models
from upscaled_cli.pictures import Found, find_pictures
from upscaled_cli.progress import Progress, clock_of
from upscaled_cli.record import NAME, Picture, Record, options_of
from upscaled_cli.report import Tally, show_failures
from upscaled_cli.session import DAEMON, Session
from upscaled_cli.sizes import paper_remark
from upscaled_cli.stamp import Stamp
from upscaled_cli.streams import STREAM
from upscaled_cli.terminal import reason_of
from upscaled_protocol.optionvalues import given_path

_EXAMPLES = f"""examples:
  upscaled batch photos -o large
  upscaled batch scans -o prints --paper A4 --dpi 300 --format tiff
  upscaled batch photos -o large          # again: only what is new, has changed or has failed

Pictures are recognised by their content, not by their names. Hidden files, links to folders and
files that are no pictures are left out, and reported. The output folder gets the folders of the
input.

An output has the name of its picture. If another picture or a file of yours has that name already,
the output gets a number: a.jpg becomes a.png, and a.gif beside it a-2.png. {NAME}
in the output folder records which output belongs to which picture. Without that file, batch takes
all files there for yours, and does every picture again, with numbers.

A picture is done if its output exists, is not older, and was made of the file that is there now.
An output appears only when it is complete. With other options a picture is still done, which is
reported: see --force.

exit status: 0 every picture is there, 1 some failed, or are of a kind that cannot be read, or there
was none, 2 wrong usage, 130 interrupted.
"""

# Far more jobs than a daemon runs at a time, and far fewer than it holds.
_WINDOW = 64


def main(argv: Sequence[str], daemon: Sequence[str] = DAEMON) -> int:
    """Upscale the folder's pictures; the exit status."""
    arguments = parser()
    options = arguments.parse_args(argv)
    try:
        config = config_of(options)
        for field in ("output_path", "output_base64"):
            if field in config:
                raise ValueError(f"--config {field} is not for a folder: use -o")
        if str(options.output) == STREAM:
            raise ValueError("-o - is for one picture: give a folder, ./- if that is its name")
        check_models(options.method, config)
        found = find_pictures(options.folder, options.output)
    except ValueError as error:
        arguments.error(str(error))
    for remark in remarks_on(options, config, None):
        print(f"upscaled batch: {remark}", file=sys.stderr)
    if not found.names:
        _show(found, Tally(), options)
        print(f"upscaled batch: there is no picture in {options.folder}", file=sys.stderr)
        return exits.FAILED
    try:
        record = Record(options.folder, options.output)
    except OSError as error:
        reason = reason_of(error)
        print(f"upscaled batch: the output folder cannot be written: {reason}", file=sys.stderr)
        return exits.FAILED
    with record:
        return _run(found, record, options, config, daemon)


def _run(
    found: Found,
    record: Record,
    options: argparse.Namespace,
    config: dict[str, Any],
    daemon: Sequence[str],
) -> int:
    suffix, made_with = options.format or "png", options_of(options.method, config)
    pictures = record.pictures(found.names, suffix)
    done_at = {} if options.force else _done_before(pictures)
    to_do = [picture for picture in pictures if picture not in done_at]
    remarks = _remarks_before(pictures, to_do, made_with)
    if done_at:
        print(_done_text(done_at, len(pictures)), file=sys.stderr)
    status = exits.OK
    done = ended = 0
    with Progress(len(to_do)) as progress:
        try:
            for picture, end in _upscale(to_do, options, config, daemon, progress):
                ended += 1
                if isinstance(end, str):
                    found.failures[picture.name] = by_options(end, options)
                    continue
                done += 1
                record.note_done(picture, suffix, made_with)
                for warning in end.get("warnings") or ():
                    remarks.add(str(warning), picture.name)
                if (remark := paper_remark(options, end.get("input_size"))) is not None:
                    remarks.add(remark, picture.name)
                if end.get("crop_info") and "crop" not in config:
                    text = "larger than the target on one side, which --crop center cuts"
                    remarks.add(text, picture.name)
        except (DaemonGoneError, OSError) as error:
            progress.say(f"upscaled batch: {error}", sys.stderr)
            status = exits.FAILED
        except KeyboardInterrupt:
            status = exits.INTERRUPTED
        elapsed_s = progress.elapsed_s
    _show(found, remarks, options)
    left, rate = len(to_do) - ended, done / elapsed_s * 60
    print(
        f"{done} upscaled, {len(done_at)} done before, {len(found.failures)} failed"
        + (f", {left} left: run it again to continue" if left else "")
        + (f"; {clock_of(elapsed_s)}, {rate:.3g} pictures per minute" if done else "")
    )
    return status or (exits.FAILED if found.failures else exits.OK)


def _done_before(pictures: Sequence[Picture]) -> dict[Picture, float]:
    """The pictures that are done, and when each was."""
    found = ((picture, picture.done_at) for picture in pictures)
    return {picture: done_at for picture, done_at in found if done_at is not None}


def _done_text(done_at: Mapping[Picture, float], pictures: int) -> str:
    first, last = (
        datetime.fromtimestamp(extreme(done_at.values())).strftime("%Y-%m-%d %H:%M")  # noqa: DTZ006 - local time
        for extreme in (min, max)
    )
    when = f"on {first}" if first == last else f"from {first} to {last}"
    return f"{len(done_at)} of {pictures} pictures were done before, {when}"


def _remarks_before(pictures: Sequence[Picture], to_do: Sequence[Picture], made_with: str) -> Tally:
    """Remarks on names that got a number, and on pictures that are not done again."""
    remarks = Tally()
    for picture in to_do:
        source = Path(picture.name)
        if not picture.target.name.startswith((source.stem + ".", source.name + ".")):
            remarks.add(
                "named with a number, because the name was taken",
                f"{picture.name} -> {picture.target.name}",
            )
    again = set(to_do)
    for picture in pictures:
        if picture not in again and picture.made_with not in (None, made_with):
            remarks.add("done before with other options: --force does it again", picture.name)
    return remarks


def _show(found: Found, remarks: Tally, options: argparse.Namespace) -> None:
    show_failures(found.failures, everything=options.verbose)
    for line in (
        *found.left_out.lines("left out ", everything=options.verbose),
        *remarks.lines("note on ", everything=options.verbose),
    ):
        print(line, file=sys.stderr)


def _upscale(
    pictures: Sequence[Picture],
    options: argparse.Namespace,
    config: dict[str, Any],
    daemon: Sequence[str],
    progress: Progress,
) -> Iterator[tuple[Picture, Message | str]]:
    """Each picture when it ends, with its result, or with a sentence if it failed."""
    if not pictures:
        return
    waiting = iter(pictures)
    running: dict[str, Picture] = {}
    with Session(daemon, show_log=options.verbose) as client:

        def submit_next() -> Iterator[tuple[Picture, str]]:
            """Submit one more picture. Yields the pictures that cannot be submitted."""
            for picture in waiting:
                paths = {
                    "image_path": os.path.abspath(picture.source),  # noqa: PTH100 - a link is kept
                    "output_path": os.path.abspath(picture.target),  # noqa: PTH100
                }
                try:
                    picture.target.parent.mkdir(parents=True, exist_ok=True)
                    made_of = Stamp.of(picture.source)
                    job_id = client.submit(options.method, {**config, **paths})
                except (OSError, ValueError) as error:
                    progress.end(None, is_failure=True)
                    yield picture, reason_of(error) if isinstance(error, OSError) else str(error)
                else:
                    running[job_id] = picture._replace(made_of=made_of)
                    return

        for _ in range(_WINDOW):
            yield from submit_next()
        for message in client.events(progress.tick):
            kind, job_id = message.get("type"), str(message.get("job_id"))
            if kind == "status" and message.get("message") == "loading_models":
                progress.starting()
            picture = running.get(job_id)
            if picture is None:
                continue
            if kind == "progress":
                progress.advance(job_id, picture.name, message)
            elif kind in ("result", "error"):
                del running[job_id]
                progress.end(job_id, is_failure=kind == "error")
                yield from submit_next()
                yield picture, message if kind == "result" else str(message.get("error"))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="upscaled batch",
        usage="upscaled batch DIR -o DIR [options]",
        description="Upscale a folder of pictures. Run it again to continue after an interruption.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument(
        "folder", type=given_path, metavar="DIR", help="the folder of the pictures"
    )
    arguments.add_argument(
        "-o",
        "--output",
        type=given_path,
        metavar="DIR",
        required=True,
        help="the folder for the outputs",
    )
    arguments.add_argument(
        "--force",
        action="store_true",
        help="do pictures again that are done, and replace their outputs",
    )
    more = add_arguments(arguments)
    more.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="show the daemon's log, and name every file that is reported",
    )
    return arguments
