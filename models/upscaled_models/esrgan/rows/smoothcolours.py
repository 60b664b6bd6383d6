"""Smooth colours as one step: compiled (`smooth.c`) on a processor, by torch's own operations
elsewhere. `esrgan/colour.py` says what they are.

`apply` is an operation of torch, so a network that has it is recorded like any other.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.nn import functional

from upscaled_imaging.luma import LUMA
from upscaled_models.esrgan.compiled import library
from upscaled_models.esrgan.rows import plaincolour

# As in `smooth.c`.
HALO = 4

_POINTER, _COUNT, _FLOAT = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_float

_library = torch.library.Library("upscaled", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "smooth_colours(Tensor picture, float noise, float colour_noise) -> Tensor"
)
apply = torch.ops.upscaled.smooth_colours


class _Smooth(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("source", "result")),
        ("luma", _FLOAT * len(LUMA)),
        *((name, _FLOAT) for name in ("noise", "colour_noise")),
        *((name, _COUNT) for name in ("width", "height", "first", "last")),
    )


def rows(
    picture: Tensor,
    *,
    noise: float,
    colour_noise: float,
    start: int,
    first: int,
    last: int,
    height: int,
) -> Tensor:
    """Rows `first` to `last` of the result, (B, 3, last - first, W) in float32.

    picture: (B, 3, h, W), the first of which is row `start` of `height` rows. Has HALO rows above
    row `first` and below the last one, as far as they lie inside.
    """
    picture = picture.float()
    if picture.device.type != "cpu" or not library.available():
        above, below = start - first + HALO, last - start + HALO - picture.shape[2]
        picture = functional.pad(picture, (0, 0, above, below))
        return plaincolour.smooth_colours(picture, noise, colour_noise, first=first, height=height)
    picture = picture.contiguous(memory_format=torch.channels_last)
    batch, channels, _, width = picture.shape
    shape = (batch, channels, last - first, width)
    result = torch.empty(shape, memory_format=torch.channels_last)
    row_bytes = width * channels * torch.float32.itemsize
    for source, to in zip(picture, result, strict=True):
        call = _Smooth(
            source.data_ptr() - start * row_bytes,
            to.data_ptr(),
            (_FLOAT * len(LUMA))(*LUMA),
            noise,
            colour_noise,
            width=width,
            height=height,
            first=first,
            last=last,
        )
        library.call("smooth_colours", ctypes.addressof(call))
    return result


def _whole(picture: Tensor, noise: float, colour_noise: float) -> Tensor:
    height = picture.shape[2]
    result = rows(
        picture,
        noise=noise,
        colour_noise=colour_noise,
        start=0,
        first=0,
        last=height,
        height=height,
    )
    return result.to(picture.dtype)


def _shape(picture: Tensor, _noise: float, _colour_noise: float) -> Tensor:
    return torch.empty_like(picture)


_library.impl("smooth_colours", _whole, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
_library.impl("smooth_colours", _shape, "Meta")  # type: ignore[no-untyped-call]
