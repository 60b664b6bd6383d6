"""Any size from any size, row by row: Lanczos in linear light, alpha premultiplied.

libvips has no Lanczos for enlarging. Pillow and torch have no 16-bit colour and need the whole
picture. Each pass is a product with a narrow band of weights, cut into small dense products, at
which BLAS is fast. Enlarging and reducing are the same code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from upscaled_imaging.rows import in_blocks

Floats = NDArray[np.float32]

_LOBES = 3
# Output rows or columns per product. Fewer waste calls; more waste work on zeros.
_BLOCK = 8
# Multiplications per product. From 262,144 on OpenBLAS starts its threads, which then spin on the
# cores that the network needs: measured at twenty times the cost of the work itself.
_PRODUCT = 200_000
# Rows that are made linear at once. The floating-point copies of a block should fit into the cache.
_CONVERTED_ROWS = 32
# Added to alpha while it weights the colours, so that colour under fully transparent pixels stays.
# It is a quarter of the smallest step of 8 bits, which is invisible elsewhere.
_TRACE = 1 / 1020


class _Weights(NamedTuple):
    """Output samples `start` to `stop` are `matrix` times input samples `first` to `last`."""

    start: int
    stop: int
    first: int
    last: int
    matrix: Floats


def resample(
    rows: Iterable[np.ndarray],
    *,
    source: tuple[int, int],
    target: tuple[int, int],
    bits: int,
) -> Iterator[np.ndarray]:
    """Resize a picture of `source` (width, height) to `target`, holding a few rows of it.

    `rows` are (h, W, C) arrays of uint8 or uint16, sRGB or close to it in tone, C of 2 or 4 with
    straight alpha last, from the top down. Yields the same kind, with `bits` (8 or 16) per
    channel. The kernel is Lanczos with three lobes, widened by the factor if it reduces.
    Pixels are areas, so the edges of both pictures coincide.
    """
    across = _blocks(source[0], target[0])
    down = _blocks(source[1], target[1])
    held: Floats | None = None  # (C, rows, target width), from input row `top` on
    top = 0
    pending = in_blocks(rows, _CONVERTED_ROWS)
    for block in down:
        while held is None or top + held.shape[1] < block.last:
            fresh = _widths(_to_linear(next(pending)), across, target[0])
            held = fresh if held is None else np.concatenate((held, fresh), axis=1)
        held = held[:, block.first - top :]
        top = block.first
        yield _from_linear(_rows(held[:, : block.last - top], block), bits)


def _widths(planes: Floats, across: list[_Weights], width: int) -> Floats:
    out = np.empty((*planes.shape[:2], width), np.float32)
    for start, stop, first, last, matrix in across:
        step = max(1, _PRODUCT // matrix.size)
        for top in range(0, planes.shape[1], step):
            part = planes[:, top : top + step, first:last]
            np.matmul(part, matrix.T, out=out[:, top : top + step, start:stop])
    return out


def _rows(planes: Floats, block: _Weights) -> Floats:
    out = np.empty((len(planes), block.stop - block.start, planes.shape[2]), np.float32)
    step = max(1, _PRODUCT // block.matrix.size)
    for left in range(0, planes.shape[2], step):
        part = slice(left, left + step)
        np.matmul(block.matrix, planes[:, :, part], out=out[:, :, part])
    return out


def _blocks(source: int, target: int) -> list[_Weights]:
    step = source / target
    stretch = max(1.0, step)
    radius = _LOBES * stretch
    blocks = []
    for start in range(0, target, _BLOCK):
        stop = min(start + _BLOCK, target)
        centres = (np.arange(start, stop) + 0.5) * step
        first = max(0, math.floor(centres[0] - radius))
        last = min(source, math.ceil(centres[-1] + radius))
        offsets = (np.arange(first, last) + 0.5 - centres[:, None]) / stretch
        matrix = np.sinc(offsets) * np.sinc(offsets / _LOBES) * (np.abs(offsets) < _LOBES)
        matrix /= matrix.sum(axis=1, keepdims=True)
        blocks.append(_Weights(start, stop, first, last, matrix.astype(np.float32)))
    return blocks


def _to_linear(rows: np.ndarray) -> Floats:
    """(h, W, C) to planes (C, h, W) of linear light, colour premultiplied, 0 to 1."""
    planes = np.ascontiguousarray(rows.transpose(2, 0, 1))
    linear = np.empty(planes.shape, np.float32)
    colours = _colours(planes)
    np.take(_linear_table(rows.itemsize), planes[:colours], out=linear[:colours])
    linear[colours:] = planes[colours:] / np.float32(np.iinfo(rows.dtype).max)
    for alpha in linear[colours:]:
        linear[:colours] *= alpha + np.float32(_TRACE)
    return linear


def _from_linear(planes: Floats, bits: int) -> np.ndarray:
    colours = _colours(planes)
    for alpha in planes[colours:]:
        # Lanczos undershoots to alpha below zero, for which the colour does not matter.
        planes[:colours] /= np.maximum(alpha + np.float32(_TRACE), np.float32(_TRACE / 2))
    np.clip(planes, 0, 1, out=planes)
    top = np.float32(2**bits - 1)
    coded = np.empty(planes.shape, np.uint8 if bits == 8 else np.uint16)
    if bits == 8:
        # The square root gives the dark end, where the curve is steep, enough entries.
        roots = (np.sqrt(planes[:colours]) * np.float32(65535) + np.float32(0.5)).astype(np.uint16)
        np.take(_code_table(), roots, out=coded[:colours])
    else:
        coded[:colours] = _srgb(planes[:colours]) * top + np.float32(0.5)
    coded[colours:] = planes[colours:] * top + np.float32(0.5)
    return np.ascontiguousarray(coded.transpose(1, 2, 0))


def _colours(planes: np.ndarray) -> int:
    return len(planes) - (len(planes) in (2, 4))


def _srgb(linear: Floats) -> Floats:
    """The sRGB transfer curve (IEC 61966-2-1), linear to coded."""
    curve = np.float32(1.055) * linear ** np.float32(1 / 2.4) - np.float32(0.055)
    return np.where(linear <= np.float32(0.0031308), linear * np.float32(12.92), curve)


@cache
def _linear_table(itemsize: int) -> Floats:
    coded = np.arange(256**itemsize) / (256**itemsize - 1)
    linear: Floats = np.where(
        coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4
    ).astype(np.float32)
    return linear


@cache
def _code_table() -> NDArray[np.uint8]:
    roots = np.arange(65536, dtype=np.float32) / np.float32(65535)
    return (_srgb(roots * roots) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
