"""Compiled steps between and behind convolutions (`native.c`).

They exist if there was a C compiler at installation. Otherwise torch computes the same bits, in
several times as long.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Built with the package, by `hatch_build.py`.
LIBRARY = Path(__file__).with_name("_native.so")

# As in `native.c`.
_LONGEST_RUN = 32
# Slopes are repeated to about this many values, so that the compiled loop is a long one.
_SLOPES = 4096

_POINTER, _COUNT, _INT = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int
_ARGUMENTS: dict[str, Sequence[type]] = {
    "prelu": (_POINTER, _POINTER, _COUNT, _POINTER, _COUNT, _INT),
    "to_bytes": (_POINTER, _POINTER, _COUNT, _INT),
    "pack_float": (_POINTER, _COUNT, _COUNT, _POINTER, _INT),
    "convolve_float": (_POINTER, _INT),
    "convolve_bf16": (_POINTER, _INT),
    "convolve_bf16_plain": (_POINTER, _INT),
    "follow_luma": (_POINTER, _INT),
    "smooth_colours": (_POINTER, _INT),
    "add_enlarged": (_POINTER, _INT, *[_POINTER] * 3, *[_COUNT] * 4, _INT),
}


def available() -> bool:
    """True if the library was compiled. The other functions here need it."""
    return library() is not None


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


def call(name: str, *arguments: Tensor | int | None) -> int:
    """Call a compiled function. The number of threads is added as the last argument."""
    plain = [item.data_ptr() if isinstance(item, Tensor) else item for item in arguments]
    result: int = getattr(library(), name)(*plain, torch.get_num_threads())
    return result


@cache
def library() -> Any:
    """The compiled library, or None."""
    try:
        # Its OpenMP functions come from the library that torch has loaded.
        loaded = ctypes.CDLL(str(LIBRARY))
        for name, arguments in _ARGUMENTS.items():
            getattr(loaded, name).argtypes = arguments
    except (OSError, AttributeError):  # not compiled, or from older sources
        return None
    return loaded
