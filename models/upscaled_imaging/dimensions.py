"""The sizes in pixels that a job asks for: a pure plan, made before any pixel is read.

Without a target the output is input x factor. With a target in inches, its pixels are inches x DPI,
truncated. If the aspect ratios of input and target differ by at most 0.01, the output is exactly
the target. Otherwise the picture covers the target, and the excess is reported as `crop_info`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from upscaled_protocol.choices import Crop
from upscaled_protocol.configs import ImageConfig
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import CropInfo, Size

# Aspect ratios this close count as equal: the picture is stretched to the exact target.
ASPECT_TOLERANCE = 0.01

# The same bound as `upscale_factor`: beyond it a network only invents texture.
MAX_SCALE = 16.0

# A target may be smaller than the input, which is then only resampled. Below a sixteenth, inches
# were most likely given as pixels.
MIN_SCALE = 1 / MAX_SCALE


@dataclass(frozen=True)
class Plan:
    """Sizes in pixels, each side at least 1.

    scale: the scale factor of the result: the factor, or target side / input side.
    scaled: what upscaling and resampling produce.
    output: `scaled`, or the part of it that a crop keeps.
    crop_x, crop_y: the upper left corner of `output` in `scaled`.
    crop_info: by how much `scaled` is larger than the target; None without a target.
    dpi: dots per inch to write into the output; None keeps the input's own.
    """

    scale: float
    scaled: Size
    output: Size
    crop_x: int = 0
    crop_y: int = 0
    crop_info: CropInfo | None = None
    dpi: int | None = None


def plan_size(config: ImageConfig, input_size: Size, *, factor: float, default_dpi: int) -> Plan:
    """Plan the sizes of one job.

    `factor` is used if the config has no target, `default_dpi` if it has inches and no DPI. If only
    one side of the target is given, the other follows the input's aspect ratio.

    Sides are rounded to the nearest pixel, halves up, but inches x DPI is truncated in double
    arithmetic, so that hosts which compute the same product get the same number.

    Raises `JobError` (invalid_job) if a side would be scaled by more than 16 or less than 1/16.
    """
    by_inches = config.target_width_inches is not None or config.target_height_inches is not None
    dpi = default_dpi if by_inches and config.target_dpi is None else config.target_dpi
    width = config.target_width or _inches_to_pixels(config.target_width_inches, dpi)
    height = config.target_height or _inches_to_pixels(config.target_height_inches, dpi)

    if width is not None and height is not None:
        plan = _cover(input_size, Size(width=width, height=height), config.crop, dpi)
    elif width is not None:
        follows = _divide(input_size.height * width, input_size.width)
        plan = _uncropped(width / input_size.width, width, follows, dpi)
    elif height is not None:
        follows = _divide(input_size.width * height, input_size.height)
        plan = _uncropped(height / input_size.height, follows, height, dpi)
    else:
        plan = _uncropped(
            factor, _multiply(input_size.width, factor), _multiply(input_size.height, factor), dpi
        )
    _check_scale(config, input_size, plan)
    return plan


def _cover(source: Size, target: Size, crop: Crop, dpi: int | None) -> Plan:
    source_aspect = source.width / source.height
    target_aspect = target.width / target.height
    if abs(source_aspect - target_aspect) <= ASPECT_TOLERANCE:
        return _uncropped(target.width / source.width, target.width, target.height, dpi)
    if source_aspect < target_aspect:
        scale = target.width / source.width
        scaled = Size(
            width=target.width, height=_divide(source.height * target.width, source.width)
        )
        crop_info = _crop_info("vertical", scaled.height - target.height, dpi)
    else:
        scale = target.height / source.height
        scaled = Size(
            width=_divide(source.width * target.height, source.height), height=target.height
        )
        crop_info = _crop_info("horizontal", scaled.width - target.width, dpi)
    if crop == "none":
        return Plan(scale, scaled, scaled, crop_info=crop_info, dpi=dpi)
    return Plan(
        scale,
        scaled,
        target,
        crop_x=_offset(scaled.width - target.width, "left" in crop, "right" in crop),
        crop_y=_offset(scaled.height - target.height, "top" in crop, "bottom" in crop),
        crop_info=crop_info,
        dpi=dpi,
    )


def _uncropped(scale: float, width: int, height: int, dpi: int | None) -> Plan:
    size = Size(width=width, height=height)
    return Plan(scale, size, size, dpi=dpi)


def _crop_info(
    direction: Literal["vertical", "horizontal"], amount_px: int, dpi: int | None
) -> CropInfo:
    return CropInfo(
        direction=direction,
        amount_px=amount_px,
        amount_inches=None if dpi is None else amount_px / dpi,
    )


def _offset(excess: int, keep_start: bool, keep_end: bool) -> int:
    if keep_start:
        return 0
    return excess if keep_end else excess // 2


def _inches_to_pixels(inches: float | None, dpi: int | None) -> int | None:
    if inches is None or dpi is None:
        return None
    return max(1, int(inches * dpi))


def _multiply(side: int, factor: float) -> int:
    return max(1, math.floor(side * factor + 0.5))


def _divide(numerator: int, denominator: int) -> int:
    """The quotient, by integers only: a double would be off by one at some halves."""
    return max(1, (2 * numerator + denominator) // (2 * denominator))


def _check_scale(config: ImageConfig, source: Size, plan: Plan) -> None:
    # Both sides are checked: a stretch within the aspect tolerance scales one of them by more.
    largest = max(plan.scaled.width / source.width, plan.scaled.height / source.height)
    if largest > MAX_SCALE:
        limit, advice = f"at most {MAX_SCALE:g} times", "give a larger picture or a smaller size"
    elif plan.scale < MIN_SCALE:
        largest = plan.scale
        limit, advice = f"at least {MIN_SCALE:g} times", "check the unit of the size"
    else:
        return
    raise JobError(
        ErrorCode.INVALID_JOB,
        f"{_asked(config, plan)}: {plan.scaled.width}x{plan.scaled.height} is {largest:.4g} times "
        f"the input's {source.width}x{source.height}, and {limit} is possible: {advice}",
    )


def _asked(config: ImageConfig, plan: Plan) -> str:
    """The fields that state the size."""
    inches = ("target_width_inches", "target_height_inches")
    fields = {name: getattr(config, name) for name in (*inches, "target_width", "target_height")}
    given = [f"{name} {value:g}" for name, value in fields.items() if value is not None]
    is_printed = config.target_width_inches is not None or config.target_height_inches is not None
    resolution = f" at {plan.dpi} dpi" if is_printed else ""
    return (" and ".join(given) or f"upscale_factor {plan.scale:g}") + resolution
