"""How far a network looks, found by changing what it is shown and watching what it answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Source pixels of context that a tile is given at most. What trained networks see beyond changes
# their answer by less than a step of 8 bits; there tiles are blended.
LARGEST_RADIUS = 64
# Windows of attention are powers of two, in what spandrel knows up to this one.
_LARGEST_PERIOD = 32
# What counts as equal, for a greatest value of one: arithmetic may depend on a tile's place.
_ROUNDING = 1e-5

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Reach:
    """What a pixel of the result depends on.

    radius: source pixels to each side, or a few more than it does; None where they are more than
    LARGEST_RADIUS, or where its place in the picture matters.
    period: its own place, modulo this many source pixels.
    """

    radius: int | None
    period: int


@torch.inference_mode()
def probe(
    forward: Forward, *, channels: int, scale: int, multiple: int, device: torch.device
) -> Reach:
    """Find out how far `forward` looks, (1, channels, h, w) to (1, channels, h*scale, w*scale).

    multiple: what it asks its input's sides to be multiples of.
    """
    height = math.ceil(_LARGEST_PERIOD / multiple) * multiple
    width = math.ceil(2 * (LARGEST_RADIUS + _LARGEST_PERIOD) / multiple) * multiple
    generator = torch.Generator().manual_seed(0)
    pair = torch.rand(2, 1, channels, height, width, generator=generator).to(device)
    across = _Probe(forward, pair, scale)
    period, is_certain = across.period(multiple)
    if not is_certain:
        return Reach(None, period)
    down = _Probe(lambda picture: forward(picture.mT).mT, pair, scale)
    # Where in a period the farthest look begins was not tried.
    radius = max(across.radius(), down.radius()) + period - 1
    return Reach(radius if radius <= LARGEST_RADIUS else None, period)


class _Probe:
    """Along the width of a pair of pictures that differ in every pixel."""

    def __init__(self, forward: Forward, pair: Tensor, scale: int) -> None:
        self._forward = forward
        self._first, self._second = pair
        self._scale = scale
        self._answer = forward(self._first)

    def radius(self) -> int:
        """The farthest that an answer depends on the picture across one column.

        Pictures that differ in some columns are answered equally as far as the network does not see
        those. Each pixel in them differs, so that no dead activation hides a connection.
        """
        width: int = self._first.shape[3]
        left = (width - _LARGEST_PERIOD) // 2
        right = left + _LARGEST_PERIOD
        other = self._first.clone()
        other[..., left:right] = self._second[..., left:right]
        different = self._forward(other) != self._answer
        columns = different.flatten(0, 2).any(0).nonzero().flatten() // self._scale
        seen: list[int] = columns.tolist() or [left]
        return max(left - min(seen), max(seen) + 1 - right, 0)

    def period(self, multiple: int) -> tuple[int, bool]:
        """The least shift of a picture that only shifts its answer, away from the borders.

        Where none does, for instance because the network looks everywhere: the least of those that
        change the answer least, and False.
        """
        allowed = _ROUNDING * float(self._answer.abs().max())
        start, stop = LARGEST_RADIUS + _LARGEST_PERIOD, LARGEST_RADIUS + 2 * _LARGEST_PERIOD
        kept = self._answer[..., start * self._scale : stop * self._scale]
        differences = {}
        shift = 1
        while shift <= _LARGEST_PERIOD:
            period = math.lcm(shift, multiple)
            shifted = self._forward(self._first[..., period:])
            moved = shifted[..., (start - period) * self._scale : (stop - period) * self._scale]
            differences[period] = float((moved - kept).abs().max())
            if differences[period] <= allowed:
                return period, True
            shift *= 2
        least = min(differences.values())
        return next(key for key, value in differences.items() if value <= 2 * least), False
