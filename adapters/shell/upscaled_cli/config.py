"""The options for upscaling, and the config that they make."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from upscaled.jobline import line_of
from upscaled_cli.sizes import add_size_arguments, options_of_side, print_size, shown
from upscaled_protocol.choices import FORMATS, ImagenFactor, OutputFormat
from upscaled_protocol.envelope import PICTURE_METHODS
from upscaled_protocol.optionvalues import whole_number

# The option for each field of the config.
OPTIONS = {
    "upscale_factor": "--factor",
    "model": "--model",
    "pre_model": "--pre-model",
    "target_dpi": "--dpi",
    "target_width_inches": "--width-inches",
    "target_height_inches": "--height-inches",
    "target_width": "--width",
    "target_height": "--height",
    "crop": "--crop",
    "output_format": "--format",
    "quality": "--quality",
    "tile_size": "--tile-size",
}
_INPUTS = ("image_path", "image_base64", "image_url")
_INCHES = ("target_width_inches", "target_height_inches")
_PIXELS = ("target_width", "target_height")


def add_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options. Returns the group `more`, for other options of a command."""
    add = parser.add_argument
    add("--method", choices=PICTURE_METHODS, default="esrgan", help="default: %(default)s")
    add(
        "-n",
        "--model",
        help="a name of `upscaled models list`, a weights file, or auto: by a look at the picture",
    )
    add(
        "--pre-model",
        metavar="MODEL",
        help="a model of scale 1 that the picture passes first: it removes noise or JPEG's blocks",
    )
    add_size_arguments(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "-f",
        "--format",
        choices=get_args(OutputFormat),
        type=lambda text: FORMATS.get(f".{text.lower()}", text),
        metavar="FORMAT",
        help="png, tiff, jpeg, webp or avif",
    )
    output.add_argument("--quality", type=whole_number, help="1 to 100, for jpeg, webp and avif")
    more = parser.add_argument_group("more")
    more.add_argument(
        "-t", "--tile-size", type=whole_number, metavar="PX", help="default, and 0: by free memory"
    )
    more.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other field of the job's config, JSON or text; may be repeated",
    )
    return more


def config_of(options: argparse.Namespace) -> dict[str, Any]:
    """The part of the config that is the same for every picture.

    Raises `ValueError`, with a sentence, if a daemon would refuse it.
    """
    common: dict[str, Any] = {
        field: value
        for field, option in OPTIONS.items()
        if (value := getattr(options, _destination(option))) is not None
    }
    common.update(print_size(options))
    if common.get("tile_size") == 0:
        del common["tile_size"]
    if options.method == "imagen" and options.factor is not None:
        common["upscale_factor"] = f"x{options.factor:g}"
        if common["upscale_factor"] not in get_args(ImagenFactor):
            raise ValueError(f"--factor {options.factor:g} is not for imagen: give 2, 3 or 4")
    for pair in options.config:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--config takes NAME=VALUE, not {pair}")
        if name in _INPUTS:
            raise ValueError(f"--config {name} cannot be used here: give the picture's path")
        if name in common:
            other = _typed(name, options) or f"another --config {name}"
            raise ValueError(f"--config {pair} and {other} mean the same: give one of them")
        common[name] = _value(value)
    line_of(common)  # raises if no job can have these values
    if common:
        _check_fields(options, common)
    _check_crop(common)
    return common


def remarks_on(
    options: argparse.Namespace, config: Mapping[str, Any], output: str | None
) -> list[str]:
    """A sentence for each option without effect. output: the file's name, if one is given."""
    remarks = []
    method = options.method
    sizes = [field for field in (*_INCHES, *_PIXELS) if field in config]
    if sizes and "upscale_factor" in config and method != "imagen":
        names = dict.fromkeys(_typed(field, options) or f"--config {field}" for field in sizes)
        remarks.append(f"--factor has no effect beside {' and '.join(names)}")
    file = Path(output or "")
    suffix = FORMATS.get(file.suffix.lower())
    kind = config.get("output_format") or suffix or "png"
    if "quality" in config and kind in ("png", "tiff"):
        remarks.append(f"--quality has no effect on {kind}, which loses nothing")
    if suffix is not None and kind != suffix:
        remarks.append(f"{file.name} will hold {kind}, as --format says, not {suffix}")
    if "tile_size" in config and method == "imagen" and not config.get("tile"):
        remarks.append("--tile-size has no effect on imagen without --config tile=true")
    if method == "esrgan" and "model" in config and "upscale_model" in config:
        remarks.append("--config upscale_model has no effect beside --model")
    return remarks


def typed(options: argparse.Namespace) -> list[str]:
    """These options as words of a command line, without options that have their default."""
    shared = argparse.ArgumentParser()
    add_arguments(shared)
    words: list[str] = []
    for action in shared._actions:
        value = getattr(options, action.dest, action.default)
        if value == action.default:
            continue
        option = action.option_strings[-1]
        if action.nargs == 0:
            words.append(option)
        else:
            for one in value if isinstance(value, list) else [value]:
                words += shown(option, one).split(" ", 1)
    return words


def by_options(sentence: str, options: argparse.Namespace) -> str:
    """A sentence of the daemon, with options in place of the config's fields."""

    def option(found: re.Match[str]) -> str:
        if found["config"]:
            return _typed(found["config"], options) or f"--config {found['config']}"
        return (_typed(found["field"], options) if found["value"] else None) or named[
            found["field"]
        ]

    named = {**OPTIONS, "output_path": "-o"}
    # pydantic writes "config.quality: Input ...", others "target_width 9 is ..." or "tile_size"
    fields = "|".join(sorted((field for field in named if "_" in field), key=len, reverse=True))
    sentence = re.sub(
        rf"\bconfig\.(?P<config>\w+)(?=:)|\b(?P<field>{fields})\b(?P<value> [0-9][0-9.]*)?",
        option,
        sentence,
    )
    # A paper is both sides.
    return re.sub(r"(--paper \S+) and \1", r"\1", sentence)


def _typed(field: str, options: argparse.Namespace) -> str | None:
    """The option for the field, with its value; None if it was not given."""
    if field in (*_INCHES, *_PIXELS):
        return next(iter(options_of_side(options, "width" if "width" in field else "height")), None)
    option = OPTIONS.get(field)
    if option is None or (value := getattr(options, _destination(option))) is None:
        return None
    return shown(option, value)


def _destination(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def _check_fields(options: argparse.Namespace, config: Mapping[str, Any]) -> None:
    """Raise `ValueError` for fields and values that the protocol does not allow."""
    from upscaled_protocol.codec import decode_host_message
    from upscaled_protocol.errors import JobError

    job = {"job_id": "1", "method": options.method, "config": {"image_path": "a.png", **config}}
    try:
        decode_host_message(line_of(job))
    except JobError as error:
        raise ValueError(by_options(error.message, options)) from None


def _check_crop(config: Mapping[str, Any]) -> None:
    if config.get("crop", "none") == "none":
        return
    if not any(all(side in config for side in sides) for sides in (_INCHES, _PIXELS)):
        raise ValueError(
            f"--crop {config['crop']} cuts to a width and a height: give both, as in --paper A4 "
            "or --width-cm 20 --height-cm 30"
        )


def _value(text: str) -> Any:
    """The value of a JSON text; if it is no JSON, the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
