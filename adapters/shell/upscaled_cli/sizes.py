"""The options for the output's size: by a factor, in pixels, or on paper."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import Any, get_args

from upscaled_protocol.choices import DEFAULT_DPI, Crop
from upscaled_protocol.optionvalues import number, whole_number

# Width and height in millimetres: ISO 216, and ANSI for the last three.
PAPERS = {
    "A0": (841.0, 1189.0),
    "A1": (594.0, 841.0),
    "A2": (420.0, 594.0),
    "A3": (297.0, 420.0),
    "A4": (210.0, 297.0),
    "A5": (148.0, 210.0),
    "A6": (105.0, 148.0),
    "letter": (215.9, 279.4),
    "legal": (215.9, 355.6),
    "tabloid": (279.4, 431.8),
}
_MM_PER_INCH = 25.4
# Up to this ratio of the sides, a picture suits a paper in either position.
_SQUARE = 1.05


def add_size_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options, in two groups."""
    size = parser.add_argument_group("size (default: 4 times the input; face: the input's)")
    size.add_argument("-s", "--factor", type=number, help="1 to 16, fractions too; imagen: 2, 3, 4")
    size.add_argument(
        "--width", type=whole_number, metavar="PX", help="pixels; not beside a print size"
    )
    size.add_argument(
        "--height", type=whole_number, metavar="PX", help="pixels; not beside a print size"
    )
    paper = parser.add_argument_group("size of a print")
    paper.add_argument(
        "--paper", choices=PAPERS, type=_paper, metavar="PAPER", help=", ".join(PAPERS)
    )
    paper.add_argument("--landscape", action="store_true", help="turn the paper on its side")
    for side in ("width", "height"):
        paper.add_argument(f"--{side}-cm", type=number, metavar="CM", help=f"{side} of the print")
        paper.add_argument(f"--{side}-inches", type=number, metavar="INCHES", help="the same")
    paper.add_argument(
        "--dpi", type=whole_number, help="dots per inch, also written into the output"
    )
    paper.add_argument(
        "--crop",
        choices=get_args(Crop),
        metavar="ANCHOR",
        help="cut the picture to a size of both width and height: center, top, bottom, left, "
        "right, top-left, ...",
    )


def print_size(options: argparse.Namespace) -> dict[str, Any]:
    """The config's fields, in inches, for a paper, centimetres or inches.

    Raises `ValueError` if two options give the same side.
    """
    if options.landscape and options.paper is None:
        raise ValueError("--landscape turns a --paper: give one, as in --paper A4 --landscape")
    fields = {}
    for side in ("width", "height"):
        given = options_of_side(options, side)
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both give the {side}: give one of them")
        if options.paper is not None:
            long, short = max(PAPERS[options.paper]), min(PAPERS[options.paper])
            inches = (long if (side == "width") == options.landscape else short) / _MM_PER_INCH
        elif (centimetres := getattr(options, f"{side}_cm")) is not None:
            inches = centimetres * 10 / _MM_PER_INCH
            if not 0 < inches < math.inf:
                raise ValueError(f"{given[0]} is no length: give centimetres above 0")
        elif (inches := getattr(options, f"{side}_inches")) is None:
            continue
        # Without --dpi, the daemon prints at its default.
        fields[f"target_{side}_inches"] = _inches(inches, max(options.dpi or DEFAULT_DPI, 1))
    given = [name for side in ("width", "height") for name in options_of_side(options, side)]
    if len({name.startswith(("--width ", "--height ")) for name in given}) > 1:
        raise ValueError(
            f"{' and '.join(given)} exclude each other: give both in pixels, or both for a print"
        )
    return fields


def effective_dpi(config: Mapping[str, Any], width: int, height: int) -> float | None:
    """Pixels of the input per inch of the print; None if no print size is asked for."""
    sides = {"target_width_inches": width, "target_height_inches": height}
    found = [pixels / config[field] for field, pixels in sides.items() if field in config]
    # The picture covers the paper, so the side that is enlarged more decides.
    return min(found, default=None)


def paper_remark(options: argparse.Namespace, size: Mapping[str, int] | None) -> str | None:
    """A sentence if the paper, turned, would suit a picture of this size better."""
    if options.paper is None or not size:
        return None
    longer = max(size.values()) / min(size.values())
    if longer < _SQUARE or (size["width"] > size["height"]) == options.landscape:
        return None
    if options.landscape:
        return "the picture is higher than wide, and the paper is not: leave out --landscape"
    return "the picture is wider than high, and the paper is not: add --landscape"


def options_of_side(options: argparse.Namespace, side: str) -> list[str]:
    """The given options for the width or the height, with their values."""
    given = {
        f"--{side}": getattr(options, side),
        f"--{side}-cm": getattr(options, f"{side}_cm"),
        f"--{side}-inches": getattr(options, f"{side}_inches"),
        "--paper": options.paper,
    }
    return [shown(option, value) for option, value in given.items() if value is not None]


def shown(option: str, value: object) -> str:
    """An option as the user types it."""
    return f"{option} {value:g}" if isinstance(value, float) else f"{option} {value}"


def _inches(inches: float, dpi: int) -> float:
    """Inches that the daemon, which cuts off fractions of a pixel, turns into the nearest pixel: A4
    at 300 dpi has 2480x3508 pixels, as in every print shop, and not 2480x3507."""
    try:
        pixels = max(round(inches * dpi), 1)
        if inches <= 0 or int(inches * dpi) == pixels:
            return inches  # the check of the config has a sentence for a length that is none
    except OverflowError:  # and for a number that is too large
        return inches
    # A hundredth of a pixel more, because pixels / dpi * dpi may fall short of a whole number.
    return (pixels + 0.01) / dpi


def _paper(text: str) -> str:
    names = {name.casefold(): name for name in PAPERS}
    return names.get(text.casefold(), text)
