"""The options that say how pictures are upscaled, and the config that they make."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from upscaled_cli.channel import line_of
from upscaled_models.imaging.suffixes import FORMATS
from upscaled_protocol.envelope import METHODS

# Options by the config field that they fill.
OPTIONS = {
    "upscale_factor": "--factor",
    "model": "--model",
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
_IMAGEN_FACTORS = ("x2", "x3", "x4")


def add_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options; the group of the last ones, for more of the same kind."""
    add = parser.add_argument
    # The fake engine takes no picture.
    methods = [method for method in METHODS if method != "fake"]
    add("--method", choices=methods, default="esrgan", help="default: %(default)s")
    add("--model", help="a name of `upscaled models list`, or a weights file")
    size = parser.add_argument_group("size (default: 4 times the input)")
    size.add_argument("--factor", type=float, help="1 to 16, fractions too; imagen: 2, 3 or 4")
    size.add_argument("--width", type=int, metavar="PX", help="pixels; not beside inches")
    size.add_argument("--height", type=int, metavar="PX", help="pixels; not beside inches")
    size.add_argument("--width-inches", type=float, metavar="IN", help="print width")
    size.add_argument("--height-inches", type=float, metavar="IN", help="print height")
    size.add_argument("--dpi", type=int, help="dots per inch, also written into the output")
    size.add_argument(
        "--crop",
        metavar="ANCHOR",
        help="cut the picture to a size of both width and height: center, top, bottom, left, "
        "right, top-left, ...",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--format", metavar="FORMAT", help="png, tiff, jpeg, webp or avif")
    output.add_argument("--quality", type=int, help="1 to 100, for jpeg, webp and avif")
    more = parser.add_argument_group("more")
    more.add_argument("--tile-size", type=int, metavar="PX", help="default: by free memory")
    more.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other field of the job's config, JSON or text; may be repeated",
    )
    return more


def config_of(options: argparse.Namespace) -> dict[str, Any]:
    """What every picture's config has in common.

    Raises `ValueError`, with a sentence, if a daemon would refuse it for every picture.
    """
    common: dict[str, Any] = {
        field: value
        for field, option in OPTIONS.items()
        if (value := getattr(options, option.removeprefix("--").replace("-", "_"))) is not None
    }
    if options.method == "imagen" and options.factor is not None:
        common["upscale_factor"] = f"x{options.factor:g}"
        if common["upscale_factor"] not in _IMAGEN_FACTORS:
            raise ValueError(f"--factor {options.factor:g} is not for imagen: give 2, 3 or 4")
    for pair in options.config:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--config takes NAME=VALUE, not {pair}")
        if name in _INPUTS:
            raise ValueError(f"--config {name} is not for here: give the picture's path")
        if name in common:
            other = OPTIONS.get(name, f"another --config {name}")
            raise ValueError(f"--config {pair} and {other} say the same: give one of them")
        common[name] = _value(value)
    line_of(common)  # what no job can say is wrong for every picture
    if common:
        _check_fields(options.method, common)
    _check_crop(common)
    return common


def remarks_on(method: str, config: Mapping[str, Any], output: str | None) -> list[str]:
    """A sentence for each option without effect. ``output``: the file's name, if one is given."""
    remarks = []
    sizes = [OPTIONS[field] for field in (*_INCHES, *_PIXELS) if field in config]
    if sizes and "upscale_factor" in config and method != "imagen":
        remarks.append(f"--factor has no effect beside {' and '.join(sizes)}, which say the size")
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


def _check_fields(method: str, config: Mapping[str, Any]) -> None:
    """Raise `ValueError` for values that the protocol does not allow. Names that it does not know
    are left to the daemon, which may be of another release.
    """
    from upscaled_protocol import configs
    from upscaled_protocol.codec import decode_host_message
    from upscaled_protocol.errors import JobError

    models: dict[str, type[configs.ImageConfig]] = {
        "esrgan": configs.EsrganConfig,
        "flux": configs.FluxConfig,
        "imagen": configs.ImagenConfig,
    }
    fields = models[method].model_fields
    known = {name: value for name, value in config.items() if name in fields}
    job = {"job_id": "1", "method": method, "config": {"image_path": "a.png", **known}}
    try:
        decode_host_message(line_of(job))
    except JobError as error:
        sentence = error.message
        for field, option in OPTIONS.items():
            sentence = sentence.replace(f"config.{field}:", f"{option} {config.get(field)}:")
        raise ValueError(sentence) from None


def _check_crop(config: Mapping[str, Any]) -> None:
    if config.get("crop", "none") == "none":
        return
    if not any(all(side in config for side in sides) for sides in (_INCHES, _PIXELS)):
        raise ValueError(
            f"--crop {config['crop']} cuts to a width and a height: give both, as in "
            "--width-inches 18 --height-inches 24"
        )


def _value(text: str) -> Any:
    """JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
