"""The options that say how pictures are upscaled, and the config that they make."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from upscaled_cli.channel import line_of
from upscaled_protocol.envelope import METHODS


def add_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options; the group of the last ones, for more of the same kind."""
    add = parser.add_argument
    # The fake engine takes no picture.
    methods = [method for method in METHODS if method != "fake"]
    add("--method", choices=methods, default="esrgan", help="default: %(default)s")
    add("--model", help="a name of `upscaled models list`, or a weights file")
    size = parser.add_argument_group("size (default: 4 times the input)")
    size.add_argument("--factor", type=float, help="1 to 16, fractions too")
    size.add_argument("--width", type=int, metavar="PX", help="pixels")
    size.add_argument("--height", type=int, metavar="PX", help="pixels")
    size.add_argument("--width-inches", type=float, metavar="IN", help="print width")
    size.add_argument("--height-inches", type=float, metavar="IN", help="print height")
    size.add_argument("--dpi", type=int, help="dots an inch, written into the output")
    size.add_argument(
        "--crop",
        metavar="ANCHOR",
        help="cut what passes the target: center, top, bottom, left, right, top-left, ...",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--format", metavar="FORMAT", help="png, tiff, jpeg, webp or avif")
    output.add_argument("--quality", type=int, help="1 to 100, for lossy formats")
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
    """What every picture's config has in common. Raises `ValueError` with a sentence."""
    common: dict[str, Any] = {
        name: value
        for name, value in {
            "upscale_factor": options.factor,
            "model": options.model,
            "target_dpi": options.dpi,
            "target_width_inches": options.width_inches,
            "target_height_inches": options.height_inches,
            "target_width": options.width,
            "target_height": options.height,
            "crop": options.crop,
            "output_format": options.format,
            "quality": options.quality,
            "tile_size": options.tile_size,
        }.items()
        if value is not None
    }
    if options.method == "imagen" and options.factor is not None:
        common["upscale_factor"] = f"x{options.factor:g}"
    for pair in options.config:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--config takes NAME=VALUE, not {pair}")
        common[name] = _value(value)
    line_of(common)  # what no job can say is wrong for every picture
    return common


def refuse_same_output(inputs: Sequence[str], folder: str | None) -> None:
    """Raise `ValueError` where one output would replace another. folder: None for the default."""
    seen: dict[Path, str] = {}
    for name in inputs:
        path = Path(name)
        # Outputs are named by the input's stem, and alike but for that.
        target = Path(folder or os.environ.get("OUTPUT_DIR") or path.parent).absolute() / path.stem
        if target in seen:
            raise ValueError(f"{seen[target]} and {name} would have the same output name")
        seen[target] = name


def _value(text: str) -> Any:
    """JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
