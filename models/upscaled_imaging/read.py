"""A picture from a file, as rows of pixels from the top down."""

from __future__ import annotations

import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyvips

from upscaled_imaging import exif, formats
from upscaled_imaging.colour import normalised, straight
from upscaled_imaging.colour_tags import tagged_profile, warn_of_exif_space
from upscaled_imaging.compression import Compression, find_compression
from upscaled_imaging.context import PictureContext
from upscaled_imaging.corruption import (
    PASSED_OVER,
    damaged,
    load_in_spite,
    webp_ends_in_zeros,
)
from upscaled_imaging.filledrows import FilledRows
from upscaled_imaging.gather import gather
from upscaled_imaging.gif import with_open_canvas
from upscaled_imaging.heifitem import HEIF_KINDS
from upscaled_imaging.jpegrest import has_rest
from upscaled_imaging.kinds import HEAD_BYTES, recognise
from upscaled_imaging.libvips import forget_reports
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.origin import Origin
from upscaled_imaging.origins import open_origin
from upscaled_imaging.readers import load
from upscaled_imaging.settings import PictureSettings
from upscaled_imaging.valuerange import with_full_range
from upscaled_protocol.configs import ImageConfig
from upscaled_protocol.errors import ErrorCode, JobError

_UPRIGHT = 1
# Orientations of pictures that are stored on their side: 5 to 8 (Exif 2.32, 4.6.4).
_FIRST_ON_ITS_SIDE = 5
# A picture that must be turned is held: in memory up to this size, else in a temporary file.
_TURNED_IN_MEMORY_BYTES = 128 * 1024 * 1024


class Source:
    """A picture that is read once, from the top down.

    width, height: pixels, after the EXIF orientation was applied. was_turned: whether it changed
    the picture.
    bands: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha (straight).
    bits: 8 or 16 per channel.
    metadata: the metadata for the output.
    compression: of a lossy file, by its header; None if it does not tell.
    path: the input file, or None. folder, stem: for the output's default name.
    """

    def __init__(
        self,
        image: pyvips.Image,
        metadata: Metadata,
        path: Path | None,
        stem: str,
        *,
        orientation: int = _UPRIGHT,
        was_turned: bool = False,
        again: Callable[[], Source] | None = None,
        compression: Compression | None = None,
        in_spite: Callable[[pyvips.Error], pyvips.Image] | None = None,
        at_end: Callable[[], None] | None = None,
    ) -> None:
        """orientation: EXIF's, to be applied to the image. was_turned: whether the decoder has
        turned it. again: opens the same picture once more. in_spite: opens the image once more
        after an error among its pixels, to be decoded as far as possible. at_end: called behind
        the last row, if there was no such error."""
        on_its_side = orientation >= _FIRST_ON_ITS_SIDE
        self.width: int = image.height if on_its_side else image.width
        self.height: int = image.width if on_its_side else image.height
        self.was_turned = was_turned or orientation != _UPRIGHT
        self.bands: int = image.bands
        self.bits: int = 16 if image.format == "ushort" else 8
        self.metadata = metadata
        self.compression = compression
        self.path = path
        self.folder = None if path is None else path.parent
        self.stem = stem
        self.rows_left = self.height
        self._again = again
        # Not a method of this class: a reference cycle would keep the pixels until Python's
        # collector runs, and it does not know how much memory they take.
        decoder = _Decoder(
            image, self.width, self.height, orientation, in_spite=in_spite, at_end=at_end
        )
        self._read = FilledRows(decoder.rows).rows if self.has_alpha else decoder.rows
        self._held: deque[np.ndarray] = deque()

    @property
    def has_alpha(self) -> bool:
        """True if the last band is alpha."""
        return self.bands in (2, 4)

    def again(self) -> Source:
        """The same picture, from its first row. Read this one to its end before. Raises `JobError`.

        For engines that look at the whole picture before they enlarge it.
        """
        if self._again is None:
            raise RuntimeError("this picture can be read only once")
        return self._again()

    def rows(self, count: int) -> np.ndarray:
        """The next `count` rows, fewer at the end: (h, W, C), uint8 or uint16.

        Fully transparent pixels have the colour of their visible neighbours. Call it from one
        thread at a time. Raises `JobError`: input_unreadable if the file is broken there,
        output_unwritable if there is no room to turn the picture.
        """
        rows = self._take(min(count, self.rows_left))
        self.rows_left -= len(rows)
        return rows

    def hold(self, limit_bytes: int, height: int) -> Sequence[np.ndarray]:
        """Read the first rows, which `rows` gives out later: (h, W, C), all but the last one of
        `height`, or of a smaller multiple of 8 in a very wide picture.

        No more than `limit_bytes` are held, but always 8 rows. Call it once, before `rows`.
        Raises `JobError` as `rows` does.
        """
        row_bytes = self.width * self.bands * self.bits // 8
        most = max(limit_bytes // row_bytes, 8)
        height = min(height, most // 8 * 8)
        left = min(self.height, most // height * height)
        while left:
            self._held.append(self._read(min(height, left)))
            left -= len(self._held[-1])
        return tuple(self._held)

    def _take(self, count: int) -> np.ndarray:
        parts = []
        while self._held and count:
            block = self._held.popleft()
            parts.append(block[:count])
            if len(block) > count:
                self._held.appendleft(block[count:])
            count -= len(parts[-1])
        if count or not parts:
            parts.append(self._read(count))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class _Decoder:
    """The rows of the image after it was turned upright."""

    def __init__(
        self,
        image: pyvips.Image,
        width: int,
        height: int,
        orientation: int,
        *,
        in_spite: Callable[[pyvips.Error], pyvips.Image] | None,
        at_end: Callable[[], None] | None,
    ) -> None:
        self._image: pyvips.Image | None = image
        self._in_spite = in_spite
        self._at_end = at_end
        self._bands = image.bands
        self._orientation = orientation
        self._width, self._height = width, height
        self._dtype = np.dtype("uint16" if image.format == "ushort" else "uint8")
        self._next = 0

    def rows(self, count: int) -> np.ndarray:
        count = min(count, self._height - self._next)
        shape = (count, self._width, self._bands)
        if count == 0 or self._image is None:
            return np.empty(shape, self._dtype)
        try:
            data = self._fetched(self._image, count)
        except pyvips.Error as error:
            if self._in_spite is None:
                raise formats.unreadable(error) from None
            image, self._in_spite, self._at_end = self._in_spite(error), None, None
            try:
                data = self._fetched(image, count)
            except pyvips.Error as another:
                raise formats.unreadable(another) from None
        self._next += count
        if self._next == self._height:
            # A picture that was turned is held as a whole until here.
            self._image = None
            forget_reports()
            if self._at_end is not None:
                self._at_end()
        return np.frombuffer(data, self._dtype).reshape(shape)

    def _fetched(self, image: pyvips.Image, count: int) -> pyvips.Buffer:
        if self._orientation != _UPRIGHT:
            image = _turned(image, self._orientation)
            self._orientation = _UPRIGHT
        self._image = image
        # A region belongs to the thread that made it, and callers may change threads.
        return pyvips.Region.new(image).fetch(0, self._next, self._width, count)


@contextmanager
def open_source(
    config: ImageConfig, settings: PictureSettings, context: PictureContext
) -> Iterator[Source]:
    """Open the one input that the config names, and check its header against every limit.

    Animations are refused. If a file holds several pages or pictures, the first is read, with a
    warning. Raises `JobError`: input_not_found, input_unreadable, input_too_large,
    unsupported_format, path_not_allowed, out_of_memory. Damage among the pixels shows only when the
    rows are read.
    """
    with open_origin(config, settings, context) as origin:
        yield _open(origin, settings, context)


def _open(origin: Origin, settings: PictureSettings, context: PictureContext) -> Source:
    kind = recognise(origin.read_at(0, HEAD_BYTES))
    check_size = partial(_check_megapixels, settings)
    image = load(kind, origin, check_size, context.warn)
    if formats.is_animated(kind, origin.read_at, image):
        raise formats.animated()
    pictures = formats.pictures(kind, origin.read_at, image)
    if pictures > 1:
        taken = "main one" if kind in HEIF_KINDS else "first"
        context.warn(f"the input holds {pictures} pictures: only the {taken} was taken")
    if kind == "gif":
        image = with_open_canvas(image, origin.read_at)
    if kind == "webp" and webp_ends_in_zeros(origin.read_at):
        context.warn(damaged("it ends in zeros"))
    try:
        metadata = gather(kind, origin.read_at, image, context)
        image = with_full_range(kind, image, origin.read_at)
        if formats.is_premultiplied(kind, origin.read_at):
            image = straight(image)
        image, icc = normalised(image, context.warn)
    except pyvips.Error as error:
        raise formats.unreadable(error) from None
    icc = tagged_profile(kind, origin.read_at, icc, is_gray=image.bands < 3, warn=context.warn)
    if icc is None and image.bands >= 3:
        warn_of_exif_space(kind, metadata.exif, context.warn)
    orientation = image.get("orientation") if image.get_typeof("orientation") else _UPRIGHT
    if kind == "png" and metadata.exif is not None:
        # libvips does not look for EXIF behind the pixels, nor in texts.
        orientation = exif.orientation(metadata.exif)
    return Source(
        image,
        replace(metadata, icc=icc),
        origin.path,
        origin.stem,
        compression=find_compression(kind, origin.read_at),
        orientation=orientation,
        was_turned=formats.is_turned(kind, origin.read_at),
        again=partial(_open_again, origin, settings, context),
        in_spite=partial(_in_spite, kind, origin, context) if kind in PASSED_OVER else None,
        at_end=partial(_look_for_rest, origin, context) if kind == "jpeg" else None,
    )


def _in_spite(
    kind: str, origin: Origin, context: PictureContext, error: pyvips.Error
) -> pyvips.Image:
    image = load_in_spite(kind, origin, error, context.warn)
    if kind == "gif":
        image = with_open_canvas(image, origin.read_at)
    return normalised(image, lambda _: None)[0]  # its warnings were given before


def _look_for_rest(origin: Origin, context: PictureContext) -> None:
    if has_rest(origin):
        context.warn(damaged("data is left over behind its last row"))


def _open_again(origin: Origin, settings: PictureSettings, context: PictureContext) -> Source:
    # libvips would go on reading where the first decoder has stopped.
    fresh = replace(origin, source=origin.changed({}))
    return _open(fresh, settings, context)


def _check_megapixels(settings: PictureSettings, width: int, height: int) -> None:
    megapixels = width * height / 1e6
    if megapixels > settings.limits.max_input_megapixels:
        raise JobError(
            ErrorCode.INPUT_TOO_LARGE,
            f"the input has {megapixels:.1f} megapixels ({width}x{height}); the "
            f"limit is {settings.limits.max_input_megapixels:g}: give a smaller picture, or raise "
            "the limit, MAX_INPUT_MEGAPIXELS",
        )


def _turned(image: pyvips.Image, orientation: int) -> pyvips.Image:
    # Turning needs the pixels in another order than the file stores them.
    size = image.width * image.height * image.bands * (2 if image.format == "ushort" else 1)
    if size <= _TURNED_IN_MEMORY_BYTES:
        held = image.copy_memory()
    else:
        _check_room(size)
        held = pyvips.Image.new_temp_file("%s.v")
        image.write(held)
    held = held.copy()
    held.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    return held.autorot()


def _check_room(size: int) -> None:
    # libvips puts its temporary files there as well.
    folder = tempfile.gettempdir()
    if shutil.disk_usage(folder).free < size:
        raise JobError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"to turn the input upright takes {size / 2**20:.0f} MiB, and {folder} has less free "
            "space: make room there, or set TMPDIR",
        )
