"""What a job's output will be: its format, its metadata and its destination."""

from __future__ import annotations

from dataclasses import dataclass

from upscaled_imaging.carried import carried
from upscaled_imaging.context import PictureContext
from upscaled_imaging.destinations import Destination, DestinationKind, Request, destination_kind
from upscaled_imaging.dimensions import ASPECT_TOLERANCE, Plan
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.pixelcounts import scaled_metadata
from upscaled_imaging.read import Source
from upscaled_imaging.settings import PictureSettings
from upscaled_protocol.choices import FORMATS, SUFFIXES, OutputFormat
from upscaled_protocol.configs import ImageConfig
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import Size

_FORMATS: dict[str, OutputFormat] = {"": "png", **FORMATS}
# The limits of the formats, and for JPEG and AVIF those of the encoders: libjpeg-turbo, and libvips
# before its AV1 encoder. WebP and AVIF are encoded whole, with 16 and 34 bytes of memory per pixel:
# the limits keep that finite.
_LONGEST_SIDE: dict[OutputFormat, int] = {
    "png": 2**31 - 1,
    "tiff": 2**32 - 1,
    "jpeg": 65_500,
    "webp": 16_383,
    "avif": 16_384,
}
# The formats of 8 bits per channel. The others take 16, of which AVIF keeps 12.
EIGHT_BITS: dict[OutputFormat, str] = {"jpeg": "JPEG", "webp": "WebP"}
# Twice what the tolerance of aspect ratios allows for 2:3. Only narrower pictures come near it.
_MOST_STRETCH = 0.03


@dataclass(frozen=True)
class Output:
    """One job's output. context: the job, which can be cancelled; None outside of a job."""

    destination: Destination
    format: OutputFormat
    quality: int | None
    plan: Plan
    metadata: Metadata
    context: PictureContext | None = None


def plan_output(
    config: ImageConfig,
    settings: PictureSettings,
    source: Source,
    plan: Plan,
    *,
    method: str,
    context: PictureContext,
) -> Output:
    """Decide format and destination before the work, so that an impossible output fails at once.

    The format is `output_format`, else the one of the output's suffix, else PNG. An output without
    a name gets {stem}_{method}_{factor}x.{ext}, with a number if that is taken when the picture is
    finished. An `output_path` replaces an existing file, but never the input.

    Raises `JobError`: invalid_job, output_unwritable, path_not_allowed, unsupported_format,
    input_too_large (the output passes `max_output_megapixels`).
    """
    destination = destination_kind(config)
    kind = _format(config, destination)
    _check_size(kind, plan, settings)
    if plan.scale < 1:
        context.warn(
            f"the target is smaller than the input ({source.width}x{source.height}): the picture "
            f"was made smaller, to {plan.scaled.width}x{plan.scaled.height}"
        )
    if (stretch := _stretch(source, plan)) > _MOST_STRETCH:
        context.warn(
            f"the target's shape is another one than the input's: the picture was stretched by "
            f"{stretch:.0%}, because width / height differ by less than {ASPECT_TOLERANCE:g}"
        )
    if source.has_alpha and kind == "jpeg":
        context.warn("JPEG has no transparency: the picture was laid on white")
    if source.bits > 8 and kind in EIGHT_BITS:
        context.warn(f"{EIGHT_BITS[kind]} has 8 bits per channel: the input's were reduced to that")
    metadata = source.metadata.resized(
        plan.output.width, plan.output.height, plan.dpi or source.metadata.dpi
    )
    metadata = scaled_metadata(
        metadata,
        Size(width=source.width, height=source.height),
        plan.scaled,
        has_moved=source.was_turned or plan.output != plan.scaled,
        warn=context.warn,
    )
    metadata = carried(metadata, kind, context.warn)
    factor = f"{plan.scale:.2f}".rstrip("0").rstrip(".")
    ending = f"_{method}_{factor}x{SUFFIXES[kind]}"
    planned = destination.plan(Request(config, settings, source, ending, f"image/{kind}", context))
    return Output(planned, kind, config.quality, plan, metadata, context)


def _format(config: ImageConfig, destination: DestinationKind) -> OutputFormat:
    if config.output_format is not None:
        return config.output_format
    suffix = destination.suffix(config)
    if suffix not in _FORMATS:
        raise JobError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"{suffix} is not written here: use .png, .tif, .jpg, .webp or .avif, "
            "or give output_format",
        )
    return _FORMATS[suffix]


def _stretch(source: Source, plan: Plan) -> float:
    """By which part one side was enlarged more than the other; 0 if no more than by rounding."""
    across, down = plan.scaled.width / source.width, plan.scaled.height / source.height
    if min(abs(across - down) * source.width, abs(across - down) * source.height) < 1:
        return 0
    return max(across / down, down / across) - 1


def _check_size(kind: OutputFormat, plan: Plan, settings: PictureSettings) -> None:
    width, height = plan.output.width, plan.output.height
    megapixels = plan.scaled.width * plan.scaled.height / 1e6
    if megapixels > settings.limits.max_output_megapixels:
        raise JobError(
            ErrorCode.INPUT_TOO_LARGE,
            f"the output would have {megapixels:.0f} megapixels ({plan.scaled.width}x"
            f"{plan.scaled.height}); the limit is {settings.limits.max_output_megapixels:g}: ask "
            "for a smaller size, or raise the limit, MAX_OUTPUT_MEGAPIXELS",
        )
    if max(width, height) > _LONGEST_SIDE[kind]:
        raise JobError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"the output would be {width}x{height}, but {kind} takes at most "
            f"{_LONGEST_SIDE[kind]} pixels per side: choose png or tiff",
        )
