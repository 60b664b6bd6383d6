"""Copies whose rows are columns in memory (`transpose.c`): torch reads them number by number."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from upscaled_models.esrgan.compiled.library import call, lanes

# As in `transpose.c`.
_OUTER = 4
# With fewer rows, columns or numbers torch is as fast.
_LEAST_SIDE = 8
_LEAST_NUMBERS = 4096

_Counts = ctypes.c_ssize_t * _OUTER


def transposed(given: Tensor) -> Tensor | None:
    """What `given.contiguous()` is, if a compiled copy gives it: if the numbers of a column of the
    last two dimensions lie side by side, in float32. Otherwise None."""
    if given.dtype != torch.float32 or given.device.type != "cpu":
        return None
    if given.numel() < _LEAST_NUMBERS or not lanes():
        return None
    long = [pair for pair in zip(given.shape, given.stride(), strict=True) if pair[0] != 1]
    *outer, (rows, side_by_side), (columns, step) = [(1, 0), *long]
    if side_by_side != 1 or min(rows, columns) < _LEAST_SIDE or len(outer) > _OUTER:
        return None
    outer += [(1, 0)] * (_OUTER - len(outer))
    sizes, strides = (_Counts(*numbers) for numbers in zip(*outer, strict=True))
    result = torch.empty(given.shape)
    places = ctypes.addressof(sizes), ctypes.addressof(strides)
    call("transpose", given, *places, step, rows, columns, result)
    return result
