"""Measures how far a network looks: which pixels of the result change with which of the source."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from upscaled_models.device.out_of_memory import is_out_of_memory

# The most source pixels of context that a tile gets. Pixels farther away change the result of
# trained networks by less than a step of 8 bits; tiles of such networks are blended.
LARGEST_RADIUS = 64
# Windows of attention that no layer states are powers of two, up to this side.
_LARGEST_PERIOD = 32
# A multiple of all windows that is longer would make tiles see more than they have to.
_LARGEST_STATED = 64
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
    forward: Forward,
    *,
    channels: int,
    scale: int,
    multiple: int,
    windows: int = 1,
    device: torch.device,
) -> ReceptiveField:
    """Measure how far `forward` looks: (1, channels, h, w) to (1, channels, h*scale, w*scale).

    multiple: the sides of its input are multiples of it. windows: what `stated_windows` gives.
    """
    height = math.ceil(_HEIGHT / multiple) * multiple
    periods = _periods(multiple, windows)
    start = LARGEST_RADIUS + periods[-1]
    width = math.ceil((start + _LARGEST_PERIOD + LARGEST_RADIUS) / multiple) * multiple
    generator = torch.Generator().manual_seed(0)
    pair = torch.rand(2, 1, channels, height, width, generator=generator).to(device)
    if _spreads_far(forward, pair[0], scale):
        return looking_far(multiple, windows)
    across = _Probe(forward, pair, scale)
    period, is_certain = across.period(periods)
    if not is_certain:
        return ReceptiveField(None, period)
    # The probe begins at one place of a period; at another one it may look farther.
    farther = period - 1
    radius = across.radius() + farther
    if radius <= LARGEST_RADIUS:
        down = _Probe(lambda picture: forward(picture.mT).mT, pair, scale)
        radius = max(radius, down.radius() + farther)
    return ReceptiveField(radius if radius <= LARGEST_RADIUS else None, period)


def looking_far(multiple: int, windows: int) -> ReceptiveField:
    """What holds for any network that looks farther than a tile may see."""
    return ReceptiveField(None, _periods(multiple, windows)[-1])


def stated_windows(model: nn.Module) -> int:
    """The least common multiple of all windows that a network's layers state; 1 if there is none,
    or if it is too long for the edges of tiles."""
    sides: set[object] = set()
    for layer in model.modules():
        stated = getattr(layer, "window_size", None)
        sides.update(stated if isinstance(stated, tuple | list) else (stated,))
    period = math.lcm(*(side for side in sides if isinstance(side, int) and side > 0))
    return period if period <= _LARGEST_STATED else 1


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


def _periods(multiple: int, windows: int) -> Sequence[int]:
    """The periods that a network can have, rising.

    All are multiples of its stated windows: the network pads a picture to whole windows, so results
    near its borders depend on its size modulo that.
    """
    tried = _PERIODS if _LARGEST_PERIOD % windows == 0 else (windows,)
    return sorted({math.lcm(period, windows, multiple) for period in tried})


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

    def period(self, periods: Sequence[int]) -> tuple[int, bool]:
        """The first of some rising shifts of a picture that only shift the result, away from the
        borders; True.

        If there is none, for example because the network looks at the whole picture: the smallest
        of the shifts that change the result least; False.
        """
        allowed = _ROUNDING * float(self._result.abs().max())
        # Even the largest shift leaves enough pixels to the left of these.
        start = LARGEST_RADIUS + periods[-1]
        stop = start + _LARGEST_PERIOD
        kept = self._result[..., start * self._scale : stop * self._scale]
        differences = {}
        for period in periods:
            shifted = self._forward(self._first[..., period:])
            moved = shifted[..., (start - period) * self._scale : (stop - period) * self._scale]
            differences[period] = float((moved - kept).abs().max())
            if differences[period] <= allowed:
                return period, True
        least = min(differences.values())
        return next(key for key, value in differences.items() if value <= 2 * least), False
