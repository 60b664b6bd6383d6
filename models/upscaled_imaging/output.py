"""Where a job's picture goes, in which format, and how it gets there whole or not at all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from upscaled_imaging.carried import carried
from upscaled_imaging.context import PictureContext
from upscaled_imaging.dimensions import Plan
from upscaled_imaging.freename import fitting
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.paths import check_allowed, given_path
from upscaled_imaging.pendingfile import PendingFile, unwritable
from upscaled_imaging.pixelcounts import scaled_metadata
from upscaled_imaging.read import Source
from upscaled_imaging.settings import PictureSettings
from upscaled_protocol.choices import FORMATS, SUFFIXES, OutputFormat
from upscaled_protocol.configs import ImageConfig
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import Size

_FORMATS: dict[str, OutputFormat] = {"": "png", **FORMATS}
# What the formats count to, and for JPEG and AVIF what the encoders take: libjpeg-turbo, and
# libvips in front of its AV1 encoder. WebP and AVIF are encoded whole, at 16 and 34 bytes of memory
# per pixel: their limits keep that finite.
_LONGEST_SIDE: dict[OutputFormat, int] = {
    "png": 2**31 - 1,
    "tiff": 2**32 - 1,
    "jpeg": 65_500,
    "webp": 16_383,
    "avif": 16_384,
}
# What Linux allows a name to have.
_NAME_BYTES = 255


@dataclass(frozen=True)
class Output:
    """One job's output.

    path: None where the host wants the bytes as base64. roots: what its folder has to lie in,
    where there are any. context: the job, which may be cancelled; None where there is none.
    numbered: a file that exists at the path stays, and the output's name gets a number.
    """

    path: Path | None
    format: OutputFormat
    quality: int | None
    plan: Plan
    metadata: Metadata
    roots: tuple[Path, ...] = ()
    context: PictureContext | None = None
    numbered: bool = False

    def publish(self, pending: PendingFile) -> Path:
        """Give the finished file its name. Raises `JobError` (output_unwritable)."""
        if not self.numbered:
            return pending.publish()
        return pending.publish_numbered(self.context.accepted_as if self.context else None)


def plan_output(
    config: ImageConfig,
    settings: PictureSettings,
    source: Source,
    plan: Plan,
    *,
    method: str,
    context: PictureContext,
) -> Output:
    """Decide path and format before the work, so that what cannot be written fails at once.

    The path is the config's, or {stem}_{method}_{factor}x.{ext} in OUTPUT_DIR, else beside the
    input. OUTPUT_DIR is made where it is missing, other folders are not: a mistyped one is an
    error. The format is `output_format`, else the suffix of `output_path`, else PNG. A path of the
    config's replaces an existing file, but never the input; any other name gets a number if it is
    taken when the picture is finished.

    Raises `JobError`: invalid_job, output_unwritable, path_not_allowed, unsupported_format,
    input_too_large (the output passes `max_output_megapixels`).
    """
    kind = _format(config)
    _check_size(kind, plan, settings)
    if plan.scale < 1:
        context.warn(
            f"the target is smaller than the input ({source.width}x{source.height}): the picture "
            f"was made smaller, to {plan.scaled.width}x{plan.scaled.height}"
        )
    if source.has_alpha and kind == "jpeg":
        context.warn("JPEG has no transparency: the picture was laid on white")
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
    path = None
    roots: tuple[Path, ...] = ()
    if not config.output_base64:
        factor = f"{plan.scale:.2f}".rstrip("0").rstrip(".")
        path = _path(config, settings, source, f"_{method}_{factor}x{SUFFIXES[kind]}")
        # OUTPUT_DIR is the operator's own.
        if config.output_path is not None or settings.access.output_dir is None:
            roots = settings.access.roots
            check_allowed(path.parent, roots)
        _check_path(path, source, is_given=config.output_path is not None)
    numbered = config.output_path is None
    return Output(path, kind, config.quality, plan, metadata, roots, context, numbered)


def _format(config: ImageConfig) -> OutputFormat:
    if config.output_format is not None:
        return config.output_format
    suffix = Path(config.output_path or "").suffix.lower()
    if suffix not in _FORMATS:
        raise JobError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"{suffix} is not written here: use .png, .tif, .jpg, .webp or .avif, "
            "or give output_format",
        )
    return _FORMATS[suffix]


def _check_size(kind: OutputFormat, plan: Plan, settings: PictureSettings) -> None:
    width, height = plan.output.width, plan.output.height
    megapixels = plan.scaled.width * plan.scaled.height / 1e6
    if megapixels > settings.limits.max_output_megapixels:
        raise JobError(
            ErrorCode.INPUT_TOO_LARGE,
            f"the output would have {megapixels:.0f} megapixels ({plan.scaled.width}x"
            f"{plan.scaled.height}); the limit is {settings.limits.max_output_megapixels:g}",
        )
    if max(width, height) > _LONGEST_SIDE[kind]:
        raise JobError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"the output would be {width}x{height}, but {kind} takes at most "
            f"{_LONGEST_SIDE[kind]} pixels a side: choose png or tiff",
        )


def _path(config: ImageConfig, settings: PictureSettings, source: Source, ending: str) -> Path:
    if config.output_path is not None:
        if config.output_path.endswith("/"):
            raise JobError(
                ErrorCode.OUTPUT_UNWRITABLE,
                f"{config.output_path} is a folder: give the output a name in it",
            )
        return given_path(config.output_path)
    if settings.access.output_dir is not None:
        folder = settings.access.output_dir.absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from None
    elif source.folder is not None:
        folder = source.folder
    else:
        raise JobError(
            ErrorCode.INVALID_JOB,
            "give output_path, or output_base64: an input that is no file has no folder for the "
            "output, and OUTPUT_DIR is not set",
        )
    return folder / fitting(source.stem, ending, _name_limit_bytes(folder))


def _name_limit_bytes(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except OSError:  # there is no such folder, as is told later
        return _NAME_BYTES


def _check_path(path: Path, source: Source, *, is_given: bool) -> None:
    try:
        if not path.parent.is_dir():
            raise JobError(
                ErrorCode.OUTPUT_UNWRITABLE, f"there is no folder {path.parent}: make it first"
            )
        if not is_given or not path.exists():
            return
        if not path.is_file():
            raise JobError(ErrorCode.OUTPUT_UNWRITABLE, f"{path} exists and is no ordinary file")
        if source.path is not None and path.samefile(source.path):
            raise JobError(
                ErrorCode.INVALID_JOB,
                f"the output {path} is the input itself: give another output_path",
            )
    except OSError as error:
        raise unwritable(path, error) from None
