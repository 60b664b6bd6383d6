"""Colour that follows luma as one step: compiled (`colour.c`) on a processor, by torch's own
operations elsewhere. `esrgan/colour.py` says what it is.

`apply` is an operation of torch, so a network that has it is recorded like any other.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from upscaled_imaging.luma import LUMA
from upscaled_models.esrgan.compiled import library
from upscaled_models.esrgan.rows.plaincolour import Following, follow_luma

# As in `colour.c`.
RADIUS = 3
_LARGEST_SCALE = 8

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_ssize_t

_library = torch.library.Library("upscaled", "DEF")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "follow_luma(Tensor source, Tensor picture, Tensor detail, Tensor interpolation, float faint,"
    " float flat, float share) -> Tensor"
)
apply = torch.ops.upscaled.follow_luma


class _Colour(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("source", "picture", "detail")),
        *((name, _POINTER) for name in ("floats", "bytes", "interpolation")),
        ("luma", ctypes.c_float * len(LUMA)),
        *((name, ctypes.c_float) for name in ("faint", "flat", "share")),
        ("is_bf16", ctypes.c_int),
        *((name, _COUNT) for name in ("width", "height", "first", "last", "scale")),
    )


def gives_bytes(device: torch.device, scale: int) -> bool:
    """True if the step is compiled: then it can round its result to bytes."""
    return device.type == "cpu" and scale <= _LARGEST_SCALE and library.available()


def rows(
    source: Tensor,
    picture: Tensor,
    detail: Tensor,
    how: Following,
    *,
    start: int,
    first: int,
    height: int,
    dtype: torch.dtype,
) -> tuple[Tensor, bool]:
    """Some rows of the result, (B, 3, scale * h, scale * W); and True if all values were finite, if
    they are bytes.

    source: whose colours are enlarged, (B, 3, more than h, W); the first of them is row `start` of
    `height` rows. Has RADIUS rows above row `first` and below the last one, as far as they lie
    inside. picture: what the network got, (B, 3, h, W), from row `first` on; its luma is the
    source's. detail: what the network adds to it, (B, 3 * scale * scale, h, W), in bf16 or float32.
    dtype: the result's: float32, or uint8 as from `passes.to_bytes` if the step `gives_bytes`.
    """
    source, picture = source.float(), picture.float()
    if not gives_bytes(source.device, how.scale):
        above = start - first + RADIUS
        below = picture.shape[2] + 2 * RADIUS - above - source.shape[2]
        source = functional.pad(source, (0, 0, above, below))
        return follow_luma(source, picture, detail, how, first=first, height=height), True
    source, picture = (
        one.contiguous(memory_format=torch.channels_last) for one in (source, picture)
    )
    if detail.dtype != torch.bfloat16:
        detail = detail.float()
    detail = detail.contiguous(memory_format=torch.channels_last)
    batch, _, count, width = detail.shape
    scale = how.scale
    shape = (batch, len(LUMA), scale * count, scale * width)
    result = torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)
    is_finite = True
    for colours, own, added, to in zip(source, picture, detail, result, strict=True):
        row_bytes = width * len(LUMA) * torch.float32.itemsize
        floats, pixels = (to.data_ptr(), 0) if dtype == torch.float32 else (0, to.data_ptr())
        call = _Colour(
            colours.data_ptr() - start * row_bytes,
            own.data_ptr(),
            added.data_ptr(),
            floats,
            pixels,
            how.interpolation.data_ptr(),
            (ctypes.c_float * len(LUMA))(*LUMA),
            how.faint,
            how.flat,
            how.share,
            detail.dtype == torch.bfloat16,
            width=width,
            height=height,
            first=first,
            last=first + count,
            scale=scale,
        )
        is_finite = bool(library.call("follow_luma", ctypes.addressof(call))) and is_finite
    return result, is_finite


def _whole(source: Tensor, picture: Tensor, detail: Tensor, *how: Any) -> Tensor:
    height = picture.shape[2]
    result, _ = rows(
        source,
        picture,
        detail,
        Following(*how),
        start=0,
        first=0,
        height=height,
        dtype=torch.float32,
    )
    return result.to(picture.dtype)


def _shape(_: Tensor, picture: Tensor, detail: Tensor, *_others: Tensor | float) -> Tensor:
    batch, channels, height, width = picture.shape
    scale = math.isqrt(detail.shape[1] // channels)
    return picture.new_empty((batch, channels, scale * height, scale * width))


_library.impl("follow_luma", _whole, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
_library.impl("follow_luma", _shape, "Meta")  # type: ignore[no-untyped-call]
