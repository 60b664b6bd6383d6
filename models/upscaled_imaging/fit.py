"""From the size that an engine produces to the size that the job asks for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from upscaled_imaging.dimensions import Plan
from upscaled_imaging.resample import resample
from upscaled_imaging.rows import cropped, to_eight_bits
from upscaled_protocol.messages import Size


def fitted(
    rows: Iterator[np.ndarray], plan: Plan, *, native: Size, native_bits: int, bits: int
) -> Iterator[np.ndarray]:
    """Resample and crop rows of `native` size to the rows of the plan's output.

    If `native` is the size of the output, the rows are resampled and cropped already: an engine's
    own size has the input's aspect ratio, which a cropped output has not.
    `bits` per channel: 8 or 16, at most `native_bits`. They are rounded to after all else, so
    rows that were fitted before give the same bits.
    """
    if native not in (plan.scaled, plan.output):
        rows = resample(
            rows,
            source=(native.width, native.height),
            target=(plan.scaled.width, plan.scaled.height),
            bits=native_bits,
        )
    if plan.output not in (plan.scaled, native):
        rows = cropped(rows, plan.crop_x, plan.crop_y, plan.output.width, plan.output.height)
    return to_eight_bits(rows) if bits < native_bits else rows
