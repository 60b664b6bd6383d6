"""`upscaled upscale IN... -o OUT`: upscales pictures, with a progress bar, for people."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from upscaled.errors import DaemonGoneError
from upscaled_cli import exits
from upscaled_cli.answers import Answers
from upscaled_cli.config import add_arguments, config_of, remarks_on, typed
from upscaled_cli.named import check_models, check_suffix
from upscaled_cli.objects import (
    allow_options,
    check_objects,
    is_object,
    is_object_folder,
    is_url,
    object_names,
)
from upscaled_cli.pictures import PICTURE_SUFFIXES
from upscaled_cli.session import DAEMON, Session
from upscaled_cli.streams import STREAM, check_streams, name_streams, streams
from upscaled_protocol.choices import SUFFIXES

_EXAMPLES = """examples:
  upscaled upscale photo.jpg                                # photo_esrgan_4x.png beside it
  upscaled upscale photo.jpg -o large.tiff --factor 2
  upscaled upscale holiday/*.jpg -o large/ --model RealESRGAN_x4plus --format webp --quality 90
  cat photo.jpg | upscaled upscale - -o - --format webp > large.webp
  upscaled upscale photo.jpg --paper A4 --dpi 300 --crop center
  upscaled upscale https://example.com/photo.jpg -o large.png
  upscaled upscale s3://bucket/photo.jpg -o s3://bucket/large.webp
  upscaled upscale holiday/*.jpg -o s3://bucket/large/ --format webp
  upscaled upscale portrait.jpg --method face --config strength=0.7    # needs a face model
  upscaled upscale portrait.jpg --model RealESRGAN_x4plus --config faces=true
  upscaled upscale photo.jpg --method flux --config denoise=0.3 --config 'prompt="oil on canvas"'

The output of one picture is a file or a folder, that of several pictures a folder. OUT is a folder
if it exists as one, if it ends in /, or if there are several pictures; it is made if it is missing.
-o FILE replaces an existing file; if FILE is a link, the link, and not what it points to.
In a folder the daemon chooses the names. They replace nothing: if a name is taken, it gets a
number. In a folder of a bucket the output of photo.jpg is photo_esrgan.png; it replaces an object
of that name.

exit status: 0 every picture is there, 1 some failed, 2 wrong usage, 130 interrupted.
"""


# Open jobs at a time. A daemon's queue holds ten times as many, and refuses more.
_WINDOW = 1000


def main(argv: Sequence[str], daemon: Sequence[str] = DAEMON) -> int:
    """Upscale the pictures; the exit status."""
    arguments = parser()
    # `parse_intermixed_args` refuses names behind `--` if there are none before it.
    end = argv.index("--") if "--" in argv else len(argv)
    options = arguments.parse_intermixed_args(argv[:end])
    options.inputs += [*options.input, *argv[end + 1 :]]
    name_streams(options)
    if not options.inputs:
        arguments.error("give a picture, as in `upscaled upscale photo.jpg`")
    try:
        configs = _configs(options)
        command = [*daemon, *allow_options(configs)]
    except ValueError as error:
        arguments.error(str(error))
    output = configs[0].get("output_path") or configs[0].get("output_url")
    file = None if _is_folder(options) else output
    for remark in remarks_on(options, configs[0], file):
        print(f"upscaled upscale: {remark}", file=sys.stderr)
    if _is_folder(options):
        command.append(f"--output-dir={options.output}")  # it may begin with a dash
    try:
        with (
            streams(options, configs) as stdout,
            Session(command, show_log=options.verbose) as client,
        ):
            return _run(client, options, configs, stdout)
    except DaemonGoneError as error:
        print(f"upscaled upscale: {error}", file=sys.stderr)
        return exits.FAILED
    except KeyboardInterrupt:
        return exits.INTERRUPTED


def _run(
    client: Session,
    options: argparse.Namespace,
    configs: Sequence[dict[str, Any]],
    stdout: Path | None,
) -> int:
    with Answers(options, configs, stdout) as answers:
        try:
            for given, config in zip(options.inputs, configs, strict=True):
                name = "stdin" if given == STREAM else given
                if os.path.isdir(given):  # noqa: PTH112 - `Path.is_dir` raises for some names
                    answers.refuse(name, f"it is a folder: run `{_batch_command(name, options)}`")
                    continue
                while len(client.pending) >= _WINDOW:
                    answers.take(client.receive(answers.tick))
                try:
                    answers.expect(client.submit(options.method, config), name)
                except ValueError as error:
                    answers.refuse(name, str(error))
            for message in client.events(answers.tick):
                answers.take(message)
        except KeyboardInterrupt:
            answers.interrupted = True
            # A second Ctrl-C ends this function, and the daemon is killed.
            client.cancel()
            for message in client.events():
                answers.take(message)
    if answers.interrupted:
        print("interrupted", file=sys.stderr)
        return exits.INTERRUPTED
    return exits.FAILED if answers.failed else exits.OK


def _configs(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One config for each picture. Raises `ValueError` if the options contradict each other."""
    common = config_of(options)
    check_streams(options)
    check_objects(options, common)
    _check_output(options, common)
    outputs: list[dict[str, str]] = [{} for _ in options.inputs]
    if is_object_folder(options.output):
        suffix = SUFFIXES[common.get("output_format", "png")]
        names = object_names(options.inputs, options.method, suffix)
        outputs = [{"output_url": options.output + name} for name in names]
    elif is_object(options.output):
        common["output_url"] = options.output
    elif options.output not in (None, STREAM) and not _is_folder(options):
        common["output_path"] = os.path.abspath(options.output)  # noqa: PTH100 - a link is kept
    check_suffix(common)
    check_models(options.method, common)
    return [
        {**common, **_input(given), **output}
        for given, output in zip(options.inputs, outputs, strict=True)
    ]


def _input(given: str) -> dict[str, str]:
    if not given:
        raise ValueError("a picture's name is empty: give a file, or - for stdin")
    if is_url(given):
        return {"image_url": given}
    scheme = urlsplit(given).scheme
    if given.startswith(f"{scheme}://"):
        raise ValueError(
            f"{given}: nothing is fetched by {scheme}://; give a path, or a URL of https://, "
            "http://, s3://, gs:// or az://"
        )
    return {"image_path": os.path.abspath(given)}  # noqa: PTH100 - a link is kept


def _check_output(options: argparse.Namespace, config: Mapping[str, Any]) -> None:
    output, pictures = options.output, len(options.inputs)
    if output == "":
        raise ValueError("-o is empty: give a file or a folder, `.` for this one")
    for field in ("output_path", "output_url"):
        if field in config and (output is not None or pictures > 1):
            raise ValueError(f"--config {field} is for one picture without -o: give -o alone")
    if config.get("output_base64") and output is not None:
        raise ValueError("--config output_base64 and -o exclude each other: give one of them")
    if config.get("output_base64") and not options.json:
        raise ValueError("--config output_base64 shows the picture in the answer: add --json")
    if output is None or pictures == 1 or output.endswith(os.sep) or Path(output).is_dir():
        return
    if Path(output).exists():
        raise ValueError(f"{output} is a file: {pictures} pictures need a folder")
    if Path(output).suffix.lower() in PICTURE_SUFFIXES:
        raise ValueError(
            f"-o {output} names one file for {pictures} pictures: give a folder, or {output}/ "
            "if that is one"
        )


def _batch_command(folder: str, options: argparse.Namespace) -> str:
    output = options.output or f"{folder.rstrip(os.sep)}-upscaled"
    return shlex.join(["upscaled", "batch", folder, "-o", output, *typed(options)])


def _is_folder(options: argparse.Namespace) -> bool:
    output: str | None = options.output
    if output is None or output == STREAM or is_object(output):
        return False
    return len(options.inputs) > 1 or output.endswith(os.sep) or Path(output).is_dir()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="upscaled upscale",
        usage="upscaled upscale IN... [-o OUT] [options]",
        description="Upscale pictures.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = arguments.add_argument
    add(
        "inputs",
        nargs="*",
        metavar="IN",
        help="PNG, JPEG, WebP, TIFF, AVIF or GIF files, - for stdin, or URLs: https://, http://, "
        "s3://, gs://, az://",
    )
    add("-i", "--input", action="append", default=[], metavar="IN", help="the same")
    add(
        "-o",
        "--output",
        metavar="OUT",
        help="a file, a folder, - for stdout, or an s3://, gs://, az:// URL (default: OUTPUT_DIR, "
        "else beside the input)",
    )
    more = add_arguments(arguments)
    more.add_argument(
        "--json", action="store_true", help="print the daemon's answers, one per line"
    )
    more.add_argument("-v", "--verbose", action="store_true", help="show the daemon's log")
    return arguments
