"""The range of values that an AVIF or a PNG stores, brought to the whole range.

libheif leaves gray of limited range ("video range") as it is, and widens red and blue as if they
were differences of colour if the matrix is identity. libvips makes 10 and 12 bits the upper ones of
16, so that white stays below white. Nothing here reads a PNG's range, which is in its cICP chunk.
Source: ITU-T H.273 (01/2021), 8.3, equations for VideoFullRangeFlag 0; PNG specification, third
edition, 11.3.2.6.
"""

from __future__ import annotations

import pyvips

from upscaled_imaging.chunks import ReadAt, png_chunks
from upscaled_imaging.heifitem import HEIF_KINDS, is_monochrome, nclx

# Of 8 bits: black, white, and the steps between them; the steps of differences of colour.
_BLACK, _STEPS, _DIFFERENCE_STEPS = 16, 219, 224
_IDENTITY = 0


def with_full_range(kind: str, image: pyvips.Image, read_at: ReadAt) -> pyvips.Image:
    """The image with each band from 0 to the most that it holds."""
    if kind in HEIF_KINDS:
        return _of_heif(image, read_at)
    return _of_png(image, read_at) if kind == "png" else image


def _of_png(image: pyvips.Image, read_at: ReadAt) -> pyvips.Image:
    told = next((chunk for chunk in png_chunks(read_at) if chunk.kind == b"cICP"), None)
    if told is None or read_at(told.start, 4)[3:] != b"\0":
        return image
    unit, top = (256, 65_535) if image.format == "ushort" else (1, 255)
    gain = top / (_STEPS * unit)
    colours = image.bands - (image.bands in (2, 4))
    factors, offsets = [1.0] * image.bands, [0.0] * image.bands
    factors[:colours], offsets[:colours] = [gain] * colours, [-_BLACK * unit * gain] * colours
    return _scaled(image, factors, offsets)


def _of_heif(image: pyvips.Image, read_at: ReadAt) -> pyvips.Image:
    colours = image.bands - (image.bands in (2, 4))
    bits = image.get("bits-per-sample") if image.get_typeof("bits-per-sample") else 8
    deep = image.format == "ushort"
    # What white is now, and what it should be.
    white, top = ((2**bits - 1) << (16 - bits), 65_535) if deep else (255, 255)
    factors, offsets = [top / white] * image.bands, [0.0] * image.bands
    told = nclx(read_at)
    if told is not None and not told.is_full:
        if is_monochrome(read_at):
            unit = 256 if deep else 1
            gain = top / (_STEPS * unit)
            factors[:colours] = [gain] * colours
            offsets[:colours] = [-_BLACK * unit * gain] * colours
        elif told.matrix == _IDENTITY:
            factors[0] *= _DIFFERENCE_STEPS / _STEPS
            factors[2] *= _DIFFERENCE_STEPS / _STEPS
    if factors == [1.0] * image.bands:
        return image
    return _scaled(image, factors, offsets)


def _scaled(image: pyvips.Image, factors: list[float], offsets: list[float]) -> pyvips.Image:
    scaled = image.linear(factors, offsets).rint().cast(image.format)
    return scaled.copy(interpretation=image.interpretation)
