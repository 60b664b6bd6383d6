"""`upscaled jobs IN...`: prints job lines for pictures, for a pipe into `upscaled run`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from upscaled.jobline import line_of
from upscaled_cli import exits
from upscaled_cli.config import add_arguments, config_of, remarks_on
from upscaled_cli.named import check_suffix
from upscaled_protocol.envelope import MAX_JOB_ID_LENGTH

_EXAMPLES = """examples:
  upscaled jobs *.jpg | upscaled run > results.jsonl
  find photos -name '*.jpg' -print0 | xargs -0 upscaled jobs -o large --factor 2 > jobs.jsonl
  upscaled jobs a.png | jq -c '.priority = 10' | upscaled run

A job's id is the name of its picture as given here. The protocol allows 128 characters: of a longer
name the id is the end. Folders are not made.

With -o a job replaces the file DIR/STEM.FORMAT. Two pictures with the same output are refused; but
xargs may start this command several times, and each start sees only its own pictures. Without -o
the daemon chooses the names (`upscaled run --output-dir DIR`), which replace nothing. `upscaled
batch` keeps the folders.

exit status: 0 written, 1 some names cannot be in a job line, 2 wrong usage.
"""


def main(argv: Sequence[str]) -> int:
    """Write a line for each picture; the exit status."""
    arguments = parser()
    options = arguments.parse_args(argv)
    try:
        common = config_of(options)
        _check_output(options, common)
        check_suffix(common)
        job_ids = _job_ids(options.inputs)
    except ValueError as error:
        arguments.error(str(error))
    for remark in remarks_on(options, common, common.get("output_path")):
        print(f"upscaled jobs: {remark}", file=sys.stderr)
    status = exits.OK
    for job_id, name in zip(job_ids, options.inputs, strict=True):
        # The daemon may run in another folder; a link is kept as it is.
        config = {**common, "image_path": os.path.abspath(name)}  # noqa: PTH100
        if options.output is not None:
            suffix = options.format or "png"
            config["output_path"] = os.path.abspath(  # noqa: PTH100
                Path(options.output) / f"{Path(name).stem}.{suffix}"
            )
        try:
            line = line_of({"job_id": job_id, "method": options.method, "config": config})
        except ValueError as error:
            print(f"{name}: {error}", file=sys.stderr)
            status = exits.FAILED
        else:
            # Not `print`: a line is UTF-8 in every locale.
            sys.stdout.buffer.write(line)
    return status


def _job_ids(names: Sequence[str]) -> list[str]:
    """The id of each picture. Raises `ValueError` if two would have the same, before any line is
    written: what reads the lines must not do a part of the pictures."""
    seen: dict[str, str] = {}
    for name in names:
        # An id is text, even if the name's bytes are no UTF-8 or the locale cannot show them.
        job_id = os.fsencode(name).decode(errors="replace")[-MAX_JOB_ID_LENGTH:]
        if seen.get(job_id) == name:
            raise ValueError(f"{name} is given twice")
        if job_id in seen:
            raise ValueError(
                f"{seen[job_id]} and {name} end in the same {MAX_JOB_ID_LENGTH} characters, and "
                "those are a job's id"
            )
        seen[job_id] = name
    return list(seen)


def _check_output(options: argparse.Namespace, config: Mapping[str, Any]) -> None:
    """Raise `ValueError` if one output would replace another, or options contradict each other."""
    for field in ("output_path", "output_base64"):
        if field in config and options.output is not None:
            raise ValueError(f"--config {field} and -o exclude each other: give one of them")
    if "output_path" in config and len(options.inputs) > 1:
        raise ValueError("--config output_path is for one picture: give -o DIR for several")
    if options.output is None:
        return
    if options.output == "":
        raise ValueError("-o is empty: give a folder, `.` for this one")
    seen: dict[str, str] = {}
    for name in options.inputs:
        stem = Path(name).stem
        if stem in seen:
            raise ValueError(
                f"{seen[stem]} and {name} would have the same output in {options.output}"
            )
        seen[stem] = name


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="upscaled jobs",
        usage="upscaled jobs IN... [-o DIR] [options]",
        description="Write job lines for pictures.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("inputs", nargs="+", metavar="IN", help="pictures")
    arguments.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="name the outputs DIR/STEM.FORMAT (default: as `upscaled run` names them)",
    )
    add_arguments(arguments)
    return arguments
