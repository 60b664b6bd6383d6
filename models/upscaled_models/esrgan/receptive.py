"""Measures how far a network looks: which pixels of the result change with which of the source."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from upscaled_models.device.out_of_memory import is_out_of_memory

# The most source pixels of context that a tile gets. Pixels farther away change the result of
# trained networks by less than a step of 8 bits; tiles of such networks are blended.
LARGEST_RADIUS = 64
# Windows of attention are powers of two; the largest in spandrel's architectures.
_LARGEST_PERIOD = 32
# The periods that are tried. 2 and 4 are left out, because a multiple of the period is one too, and
# tiles on a grid of 8 cost no more.
_PERIODS = (1, 8, 16, _LARGEST_PERIOD)
# Rows of the pictures: what is measured lies along the width.
_HEIGHT = 16
# Differences up to this count as equal, for values up to one. A tile's place may change rounding.
_ROUNDING = 1e-5

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ReceptiveField:
    """The source pixels that a pixel of the result depends on.

    radius: how many to each side, or a few more than that; None if they are more than
    LARGEST_RADIUS, or if the result depends on the pixel's place in the picture.
    period: the result also depends on the pixel's place modulo this many source pixels.
    """

    radius: int | None
    period: int


@torch.inference_mode()
def probe(
    forward: Forward, *, channels: int, scale: int, multiple: int, device: torch.device
) -> ReceptiveField:
    """Measure how far `forward` looks: (1, channels, h, w) to (1, channels, h*scale, w*scale).

    multiple: the sides of its input are multiples of it.
    """
    height = math.ceil(_HEIGHT / multiple) * multiple
    start = LARGEST_RADIUS + math.lcm(_LARGEST_PERIOD, multiple)
    width = math.ceil((start + _LARGEST_PERIOD + LARGEST_RADIUS) / multiple) * multiple
    generator = torch.Generator().manual_seed(0)
    pair = torch.rand(2, 1, channels, height, width, generator=generator).to(device)
    if _spreads_far(forward, pair[0], scale):
        return looking_far(multiple)
    across = _Probe(forward, pair, scale)
    period, is_certain = across.period(multiple)
    if not is_certain:
        return ReceptiveField(None, period)
    # The probe begins at one place of a period; at another one it may look farther.
    farther = period - 1
    radius = across.radius() + farther
    if radius <= LARGEST_RADIUS:
        down = _Probe(lambda picture: forward(picture.mT).mT, pair, scale)
        radius = max(radius, down.radius() + farther)
    return ReceptiveField(radius if radius <= LARGEST_RADIUS else None, period)


def looking_far(multiple: int) -> ReceptiveField:
    """What holds for any network that looks farther than a tile may see, whatever its windows."""
    return ReceptiveField(None, math.lcm(_LARGEST_PERIOD, multiple))


def has_many_windows(model: nn.Module) -> bool:
    """True if a network's layers of attention say that together they look farther than a tile may
    see: windows that are shifted in every second layer (Liu et al., "Swin Transformer", 2021). Each
    layer then looks a shift farther than the one before.

    If this is wrong, tiles are blended that need not be.
    """
    reach = 0
    for layer in model.modules():
        shift, side = (getattr(layer, name, None) for name in ("shift_size", "window_size"))
        if isinstance(shift, int) and isinstance(side, int):
            reach += 2 * min(shift, side - shift)
    return reach > LARGEST_RADIUS


def _spreads_far(forward: Forward, picture: Tensor, scale: int) -> bool:
    """True if NaNs spread farther than a tile may see. They spread at least as far as the network
    looks, so one picture shows what `_Probe` needs several for. False if the network fails on them.
    """
    strange = picture.clone()
    width = strange.shape[3]
    left = (width - _LARGEST_PERIOD) // 2
    right = left + _LARGEST_PERIOD
    strange[..., left:right] = torch.nan
    try:
        result = forward(strange)
    except Exception as error:  # it may do anything with them
        if is_out_of_memory(error):
            raise
        return False
    columns = result.isnan().flatten(0, 2).any(0).nonzero().flatten() // scale
    seen: list[int] = columns.tolist() or [left]
    return max(left - min(seen), max(seen) + 1 - right) > LARGEST_RADIUS


class _Probe:
    """Probes along the width, with two pictures that differ in every pixel."""

    def __init__(self, forward: Forward, pair: Tensor, scale: int) -> None:
        self._forward = forward
        self._first, self._second = pair
        self._scale = scale
        self._result = forward(self._first)

    def radius(self) -> int:
        """How many columns away from a changed column the result changes.

        Every pixel of those columns changes, so an activation that is zero for one value hides
        nothing.
        """
        width: int = self._first.shape[3]
        left = (width - _LARGEST_PERIOD) // 2
        right = left + _LARGEST_PERIOD
        other = self._first.clone()
        other[..., left:right] = self._second[..., left:right]
        different = self._forward(other) != self._result
        columns = different.flatten(0, 2).any(0).nonzero().flatten() // self._scale
        seen: list[int] = columns.tolist() or [left]
        return max(left - min(seen), max(seen) + 1 - right, 0)

    def period(self, multiple: int) -> tuple[int, bool]:
        """The smallest of some shifts of a picture that only shift the result, away from the
        borders; True.

        If there is none, for example because the network looks at the whole picture: the smallest
        of the shifts that change the result least; False.
        """
        allowed = _ROUNDING * float(self._result.abs().max())
        # Even the largest shift leaves enough pixels to the left of these.
        start = LARGEST_RADIUS + math.lcm(_LARGEST_PERIOD, multiple)
        stop = start + _LARGEST_PERIOD
        kept = self._result[..., start * self._scale : stop * self._scale]
        differences = {}
        for shift in _PERIODS:
            period = math.lcm(shift, multiple)
            shifted = self._forward(self._first[..., period:])
            moved = shifted[..., (start - period) * self._scale : (stop - period) * self._scale]
            differences[period] = float((moved - kept).abs().max())
            if differences[period] <= allowed:
                return period, True
        least = min(differences.values())
        return next(key for key, value in differences.items() if value <= 2 * least), False
