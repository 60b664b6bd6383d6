"""Values of limited range ("video range") in an AVIF, HEIC or PNG, expanded to full range.

libheif does not expand gray, and expands red and blue as if they were differences of colour if the
matrix is identity. libvips shifts 10 and 12 bits to the upper bits of 16, so that white stays below
full white. No library reads a PNG's range, which is in its cICP chunk.
Source: ITU-T H.273 (01/2021), 8.3, equations for VideoFullRangeFlag 0; PNG specification, third
edition, 11.3.2.6.
"""

from __future__ import annotations

import pyvips

from upscaled_imaging.chunks import ReadAt, png_chunks
from upscaled_imaging.heifitem import HEIF_KINDS, is_monochrome, nclx

# For 8 bits: black, white, the steps between them, and the steps of differences of colour.
_BLACK, _STEPS, _DIFFERENCE_STEPS = 16, 219, 224
_IDENTITY = 0


def with_full_range(kind: str, image: pyvips.Image, read_at: ReadAt) -> pyvips.Image:
    """The image with each band expanded to full range."""
    if kind in HEIF_KINDS:
        return _of_heif(image, read_at)
    return _of_png(image, read_at) if kind == "png" else image


def _of_png(image: pyvips.Image, read_at: ReadAt) -> pyvips.Image:
    tags = next((chunk for chunk in png_chunks(read_at) if chunk.kind == b"cICP"), None)
    if tags is None or read_at(tags.start, 4)[3:] != b"\0":
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
    # The value of white now, and the one that it should have.
    white, top = ((2**bits - 1) << (16 - bits), 65_535) if deep else (255, 255)
    factors, offsets = [top / white] * image.bands, [0.0] * image.bands
    tags = nclx(read_at)
    if tags is not None and not tags.is_full:
        if is_monochrome(read_at):
            unit = 256 if deep else 1
            gain = top / (_STEPS * unit)
            factors[:colours] = [gain] * colours
            offsets[:colours] = [-_BLACK * unit * gain] * colours
        elif tags.matrix == _IDENTITY:
            factors[0] *= _DIFFERENCE_STEPS / _STEPS
            factors[2] *= _DIFFERENCE_STEPS / _STEPS
    if factors == [1.0] * image.bands:
        return image
    return _scaled(image, factors, offsets)


def _scaled(image: pyvips.Image, factors: list[float], offsets: list[float]) -> pyvips.Image:
    scaled = image.linear(factors, offsets).rint().cast(image.format)
    return scaled.copy(interpretation=image.interpretation)
