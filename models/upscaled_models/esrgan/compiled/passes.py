"""Compiled passes over memory, between and behind convolutions (`passes.c`), with torch's bits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from upscaled_models.esrgan.compiled.library import available, call

# As in `passes.c`.
_LONGEST_RUN = 32
# Slopes are repeated to about this many values, so that the compiled loop is a long one.
_SLOPES = 4096


def repeated(slopes: Tensor) -> Tensor:
    """A PReLU's slopes, one per channel or one for all, as `prelu` takes them."""
    return slopes.flatten().float().repeat(-(-_SLOPES // slopes.numel()))


def prelu(rows: Tensor, slopes: Tensor, out: Tensor) -> None:
    """Write `rows` (B, C, h, W) in bf16 to `out`; negative values are multiplied by their slope.

    slopes: from `repeated`. out: channels last in memory, each picture of the batch by itself.
    """
    rows, period = _channels_last(rows), slopes.numel()
    pictures = [(rows, out)] if len(rows) == 1 else zip(rows, out, strict=True)
    for source, target in pictures:
        call("prelu", source, slopes, period, target, source.numel())


def to_bytes(picture: Tensor) -> tuple[Tensor, bool]:
    """A picture in float32, clamped to 0 to 1, as uint8; and True if all its values were finite."""
    picture = _channels_last(picture)
    result = torch.empty_like(picture, dtype=torch.uint8)
    finite = call("to_bytes", picture, result, picture.numel())
    return result, bool(finite)


def can_enlarge(factor: int, channels: int) -> bool:
    """True if `add_enlarged` takes a picture of so many channels."""
    return available() and factor * channels <= _LONGEST_RUN


def add_enlarged(squares: Tensor, source: Tensor, dtype: torch.dtype) -> tuple[Tensor, bool]:
    """`source`, each pixel enlarged to a square of `factor` x `factor` pixels, plus `squares`.

    squares: (B, factor * factor * C, h, W) in bf16 or float32, by row, column and channel of the
    square. source: (B, C, h, W) in float32. dtype: the result's: float32, or uint8 as from
    `to_bytes`.
    Returns (B, C, factor * h, factor * W); and True if all values were finite before rounding.
    """
    batch, channels, height, width = source.shape
    factor = math.isqrt(squares.shape[1] // channels)
    result = torch.empty(
        (batch, channels, factor * height, factor * width),
        dtype=dtype,
        memory_format=torch.channels_last,
    )
    to = (result, None) if dtype == torch.float32 else (None, result)
    sides = (batch * height, width, channels, factor)
    added = _channels_last(squares)
    is_bf16 = squares.dtype == torch.bfloat16
    finite = call("add_enlarged", added, is_bf16, _channels_last(source), *to, *sides)
    return result, bool(finite)


def _channels_last(picture: Tensor) -> Tensor:
    return picture.contiguous(memory_format=torch.channels_last)
