"""The range of values that an AVIF stores, brought to the whole range.

libheif leaves gray of limited range ("video range") as it is, and widens red and blue as if they
were differences of colour if the matrix is identity. libvips makes 10 and 12 bits the upper ones of
16, so that white stays below white.
Source: ITU-T H.273 (01/2021), 8.3, equations for VideoFullRangeFlag 0.
"""

from __future__ import annotations

import pyvips

from upscaled_models.imaging.avifitem import is_monochrome, nclx
from upscaled_models.imaging.chunks import ReadAt

# Of 8 bits: black, white, and the steps between them; the steps of differences of colour.
_BLACK, _STEPS, _DIFFERENCE_STEPS = 16, 219, 224
_IDENTITY = 0
_RGB = 3


def with_full_range(image: pyvips.Image, read_at: ReadAt) -> pyvips.Image:
    """The image of an AVIF, as RGB with or without alpha, each band from 0 to the most it holds."""
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
            factors[:_RGB], offsets[:_RGB] = [gain] * _RGB, [-_BLACK * unit * gain] * _RGB
        elif told.matrix == _IDENTITY:
            factors[0] *= _DIFFERENCE_STEPS / _STEPS
            factors[2] *= _DIFFERENCE_STEPS / _STEPS
    if factors == [1.0] * image.bands:
        return image
    scaled = image.linear(factors, offsets).rint().cast(image.format)
    return scaled.copy(interpretation=image.interpretation)
